//! `log`: what is written to standard error.

use crate::setting::choice;

section! {
    /// What is written to standard error.
    pub struct Log {
        /// `console` for people, `json` for collectors. A change needs a restart.
        pub format: LogFormat = "console",
        /// The least important lines written: `error`, `warn`, `info`, `debug` or `trace`.
        pub level: Level = "info",
        /// One `info` line per settled call. No bodies, no header values.
        pub calls: bool = "true",
    }
}

choice! {
    /// The form of a line.
    pub enum LogFormat {
        /// For people.
        Console = "console",
        /// One JSON object per line.
        Json = "json",
    }
}

choice! {
    /// How important a line is.
    pub enum Level {
        /// Data is at risk, or a human must act.
        Error = "error",
        /// Something went wrong and was recovered.
        Warn = "warn",
        /// Lifecycle, and one line per settled call.
        Info = "info",
        /// What happens to each event.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}
