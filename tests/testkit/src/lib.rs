//! What Evoke's tests share.
//!
//! * [`time`]: a clock that tests hold, jump and let run, and [`time::eventually`] for everything that takes a moment;
//! * [`contract`]: what a port means, written once as tests that every implementation must pass;
//! * [`mod@reference`]: a store that is obviously right, the oracle of the contract's random tests and the engine's store
//!   for simulated hours;
//! * [`process`]: the product, or a server beside it, as a process that cannot fail unseen;
//! * [`source`]: one source of a connector, before a door that does as it is told;
//! * [`sender`]: who sends webhooks, and keeps what is not taken;
//! * [`settings`]: a connector's reference of settings, held equal to its code;
//! * [`servers`]: real upstreams on free ports of loopback.
//!
//! Nothing here is linked into the product.

pub mod contract;
pub mod marks;
pub mod process;
pub mod reference;
pub mod sender;
pub mod servers;
pub mod settings;
pub mod source;
pub mod time;
