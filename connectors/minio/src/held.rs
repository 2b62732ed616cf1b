//! What came by the stream and is not durable yet. It is in nobody else's hands, so it is held; and it is held within
//! bounds, beyond which it is dropped and counted.

use std::collections::VecDeque;

use connectors_sdk::{AckWindow, Event, Health, Quarantined, Resolved, SourceContext, WindowLimits};

use crate::memory::{Made, Memory};
use crate::stream::LONGEST;

/// An event, or what could not be made into one.
pub(crate) type Message = Result<Event, Box<Quarantined>>;

/// How one of them came.
#[derive(Debug)]
pub(crate) struct Came {
    /// By listing; by the stream otherwise.
    pub(crate) found: bool,
    /// No function is known to want it: the broker has to say whether it knows all of them.
    pub(crate) in_doubt: bool,
    /// What to remember once it is durable.
    pub(crate) made: Option<Made>,
}

/// Those that are on their way into the broker, and those that wait for room there.
pub(crate) struct Held {
    window: AckWindow<Came>,
    waiting: VecDeque<(Message, Came)>,
    waiting_bytes: usize,
    limits: WindowLimits,
    health: Health,
    found: usize,
    in_doubt: usize,
    /// The broker has answered for an event that no function was known to want: it knows what functions want.
    settled: bool,
    /// Something is lost.
    hole: bool,
}

impl Held {
    pub(crate) fn new(ctx: &SourceContext, limits: WindowLimits) -> Self {
        Held {
            window: AckWindow::unordered(ctx, limits).holding(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            limits,
            health: ctx.health.clone(),
            found: 0,
            in_doubt: 0,
            settled: false,
            hole: false,
        }
    }

    /// Whether the broker has said that it knows what functions want.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether something is lost.
    pub(crate) fn has_hole(&self) -> bool {
        self.hole
    }

    /// What is lost is being looked for.
    pub(crate) fn fill_hole(&mut self) {
        self.hole = false;
    }

    /// Not everything that should be is known to be durable.
    pub(crate) fn note_hole(&mut self) {
        self.hole = true;
    }

    /// Whether everything that came is durable.
    pub(crate) fn is_empty(&self) -> bool {
        self.window.in_flight() == 0 && self.waiting.is_empty()
    }

    /// Whether everything that was found is durable.
    pub(crate) fn has_found_settled(&self) -> bool {
        self.found == 0
    }

    /// Whether something that is found goes into the broker at once. It need not be held: it can be found again.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.window.has_room(LONGEST) && self.has_room_for_doubt()
    }

    /// What waits for the broker's word leaves room for what is known to be wanted.
    fn has_room_for_doubt(&self) -> bool {
        self.in_doubt < self.limits.messages.get().div_ceil(2)
    }

    /// Takes what came, or drops and counts it.
    pub(crate) fn take(&mut self, message: Message, came: Came) {
        let weight = weight(&message);
        self.fill();
        let bytes = usize::try_from(self.limits.bytes.bytes()).unwrap_or(usize::MAX);
        let fits = self.waiting.len() < self.limits.messages.get() && self.waiting_bytes + weight <= bytes;
        let doubted = came.in_doubt && !self.has_room_for_doubt();
        if doubted || !(fits || self.waiting.is_empty()) {
            self.health.received(1);
            self.health.dropped(1);
            self.hole = true;
            return;
        }
        self.found += usize::from(came.found);
        self.in_doubt += usize::from(came.in_doubt);
        self.waiting_bytes += weight;
        self.waiting.push_back((message, came));
        self.fill();
    }

    /// Moves what waits into the window, as far as there is room.
    fn fill(&mut self) {
        while let Some((message, _)) = self.waiting.front() {
            let weight = weight(message);
            if !self.window.has_room(weight) {
                return;
            }
            self.waiting_bytes -= weight;
            match self.waiting.pop_front() {
                Some((Ok(event), came)) => self.window.publish(event, came),
                Some((Err(unreadable), came)) => self.window.quarantine(*unreadable, came),
                None => return,
            }
        }
    }

    /// Waits until something is durable or lost; for ever where nothing is held. Safe to cancel.
    pub(crate) async fn next(&mut self, memory: &Memory) {
        match self.window.next().await {
            Some(resolved) => self.resolved(resolved, memory),
            None => std::future::pending().await,
        }
    }

    fn resolved(&mut self, resolved: Resolved<Came>, memory: &Memory) {
        let (came, refusal) = match resolved {
            Resolved::Taken { token, .. } => (token, None),
            Resolved::GiveBack { token, refusal, .. } | Resolved::Never { token, refusal } => {
                (token, Some(refusal))
            }
        };
        self.found -= usize::from(came.found);
        self.in_doubt -= usize::from(came.in_doubt);
        if let Some(refusal) = refusal {
            self.hole = true;
            self.health.dropped(1);
            self.health.problem(format!("an event is lost: {refusal}"));
        } else {
            self.settled |= came.in_doubt;
            if let Some(made) = came.made {
                memory.remember(made);
            }
        }
        self.fill();
    }

    /// Finishes what was begun: what is refused from here on is lost.
    pub(crate) async fn finish(&mut self, memory: &Memory) {
        self.window.close();
        self.fill();
        while let Some(resolved) = self.window.next().await {
            self.resolved(resolved, memory);
        }
    }
}

fn weight(message: &Message) -> usize {
    match message {
        Ok(event) => event.body.len() + event.headers.bytes() + event.topic.as_str().len(),
        Err(unreadable) => unreadable.raw.len() + unreadable.headers.bytes(),
    }
}
