//! What goes wrong, as an exit code and in words.

use broker_api::{Problem, ProblemKind};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The broker said no, with a problem document. Exit code 3 when what was named is not there, else 1.
    #[error("{0}")]
    Refused(Problem),
    /// The front said no, in words. Exit code 3 for 404, else 1.
    #[error("{text}")]
    Front {
        /// The HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// A call was waited for and did not end well. Exit code 1.
    #[error("the call is {state}")]
    Unsuccessful {
        /// How it ended.
        state: String,
    },
    /// What answered is not a broker, or of another version. Exit code 1.
    #[error("{url} answered {status} with something that is not the API's: {detail}")]
    NotTheApi {
        /// Who was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What could not be read.
        detail: String,
    },
    /// The command is wrong. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The broker cannot be reached. Exit code 4.
    #[error("cannot reach the broker at {url}: {detail}")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// What went wrong.
        detail: String,
    },
    /// The result cannot be written; a reader that left is no failure. Exit code 1.
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// 0 done, 1 failed, 2 wrong usage, 3 not found, 4 cannot reach the broker.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(problem) => match problem.known() {
                Some(
                    ProblemKind::FunctionNotFound
                    | ProblemKind::SourceNotFound
                    | ProblemKind::ScheduleNotFound
                    | ProblemKind::InvocationNotFound
                    | ProblemKind::DeadLetterNotFound,
                ) => 3,
                _ => 1,
            },
            Failure::Front { status: 404, .. } => 3,
            Failure::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
            Failure::Front { .. }
            | Failure::Unsuccessful { .. }
            | Failure::NotTheApi { .. }
            | Failure::Output(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable { .. } => 4,
        }
    }

    /// What can be done about it, where that is known.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Failure::Refused(problem) => Some(problem.remedy.clone()),
            Failure::Unreachable { .. } => {
                Some("start it with `evoke serve` or `evoke demo`, or name it with --url or EVOKE_URL".into())
            }
            Failure::NotTheApi { .. } => Some("check --url and EVOKE_URL".into()),
            _ => None,
        }
    }
}
