//! Speaking HTTP to the gateway and to callbacks' hosts.

use async_trait::async_trait;

/// The gateway, as a port: the broker's own client in service, a script in simulations.
#[async_trait]
pub trait Gateway: Send + Sync + std::fmt::Debug {}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {}
