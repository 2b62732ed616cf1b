//! Memory at rest: a broker with a gateway, nothing waiting, nothing asked.

use anyhow::Result;

use crate::Bench;
use crate::evoke::{Evoke, Settings};
use crate::meter::{Cast, Cpu, Part};
use crate::processes;
use crate::report::{Figure, Target, Unit};

/// The samples.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    megabytes: Vec<f64>,
    cpu: Vec<Cpu>,
}

impl Idle {
    /// Resident memory, a while after the start.
    pub(crate) async fn sample(&mut self, bench: &Bench) -> Result<()> {
        if let Some(evoke) = Evoke::start(bench, Settings::default()).await? {
            let cast =
                Cast::with(&[(Part::Server, evoke.process), (Part::Function, bench.functions.process)]);
            let watch = cast.watch()?;
            tokio::time::sleep(bench.plan.idle).await;
            let (_, cpu) = watch.so_far()?;
            let megabytes = processes::memory(evoke.process)?.resident as f64 / 1e6;
            eprintln!("  idle: {megabytes:.1} MB");
            self.megabytes.push(megabytes);
            self.cpu.push(cpu);
            evoke.stop().await?;
        }
        Ok(())
    }

    pub(crate) fn figure(self) -> Figure {
        Figure {
            what: "resident memory at rest".into(),
            unit: Unit::Megabytes,
            target: Some(Target::AtMost(30.0)),
            evoke: self.megabytes,
            cpu: self.cpu,
            limit: Vec::new(),
            limit_is: "",
            limit_cpu: Vec::new(),
            details: Vec::new(),
            source: None,
        }
    }
}
