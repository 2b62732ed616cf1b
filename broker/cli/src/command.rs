//! What can be asked: the arguments of every command.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What holds for every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Where the broker answers
    #[arg(long, env = "EVOKE_URL", default_value = "http://127.0.0.1:8090", global = true)]
    pub url: String,
    /// Tables for people, or JSON as the API gives it
    #[arg(long, value_enum, default_value_t = Output::Table, global = true)]
    pub output: Output,
    /// Print results only, no remarks
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// The configuration file, for commands that read one
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The user of the management API; its password is read from --password-file
    #[arg(long, env = "EVOKE_USER", value_name = "NAME", requires = "password_file", global = true)]
    pub user: Option<String>,
    /// A file that holds the user's password
    #[arg(long, env = "EVOKE_PASSWORD_FILE", value_name = "FILE", global = true)]
    pub password_file: Option<PathBuf>,
    /// A file that holds a bearer token for the management API
    #[arg(long, env = "EVOKE_TOKEN_FILE", value_name = "FILE", conflicts_with = "user", global = true)]
    pub token_file: Option<PathBuf>,
}

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Output {
    /// Tables for people
    #[default]
    Table,
    /// JSON as the API gives it
    Json,
}

/// The commands that speak to a running broker.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Show how the broker is: version, store, what was accepted and what became of it
    Info,
    /// The functions the gateway lists, and how their calls stand
    #[command(subcommand)]
    Functions(FunctionsCommand),
    /// Which topics start which functions
    #[command(subcommand)]
    Triggers(TriggersCommand),
    /// Where events come from
    #[command(subcommand)]
    Sources(SourcesCommand),
    /// When functions run by themselves
    #[command(subcommand)]
    Schedules(SchedulesCommand),
    /// Call a function asynchronously
    Invoke(Invoke),
    /// Publish an event to the functions that want it
    Publish(Publish),
    /// Accepted calls, and how each stands
    #[command(subcommand)]
    Invocations(InvocationsCommand),
    /// Calls that were given up
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
}

/// Part of a list.
#[derive(Args, Clone, Debug, Default)]
pub struct PageArgs {
    /// At most this many (1 to 1000; 50 unless said)
    #[arg(long, value_name = "N")]
    pub limit: Option<u16>,
    /// Where the last part ended, as it said
    #[arg(long)]
    pub cursor: Option<String>,
}

/// `evoke functions …`
#[derive(Subcommand, Clone, Debug)]
pub enum FunctionsCommand {
    /// List functions
    List(PageArgs),
    /// Show one function: annotations, problems found in them, lanes
    Show {
        /// NAME or NAME.NAMESPACE
        name: String,
    },
    /// Hold deliveries to a function
    Pause {
        /// NAME or NAME.NAMESPACE
        name: String,
    },
    /// Let a function's deliveries run again
    Resume {
        /// NAME or NAME.NAMESPACE
        name: String,
    },
}

/// `evoke triggers …`
#[derive(Subcommand, Clone, Debug)]
pub enum TriggersCommand {
    /// List triggers
    List(PageArgs),
}

/// `evoke sources …`
#[derive(Subcommand, Clone, Debug)]
pub enum SourcesCommand {
    /// List sources
    List(PageArgs),
    /// Show one source: state, counts, last error, topics nobody wanted
    Show {
        /// Its name in the configuration
        name: String,
    },
    /// Hold a source's intake
    Pause {
        /// Its name in the configuration
        name: String,
    },
    /// Let a source's intake run again
    Resume {
        /// Its name in the configuration
        name: String,
    },
    /// Forget what a source has received, so that what its upstream gives again runs again
    ///
    /// Without this, a record that was received is recognised however late it comes again. Where the upstream goes on is its
    /// own to say: set its group back besides.
    ResetPosition {
        /// Its name in the configuration
        name: String,
    },
}

/// `evoke schedules …`
#[derive(Subcommand, Clone, Debug)]
pub enum SchedulesCommand {
    /// List schedules
    List(PageArgs),
    /// Show one schedule: its rules and its next instants
    Show {
        /// Its id
        id: String,
        /// How many next instants (up to 1000)
        #[arg(long, value_name = "N", default_value_t = 10)]
        next: u16,
    },
    /// Run it once, now
    Run {
        /// Its id
        id: String,
    },
    /// Hold its runs
    Pause {
        /// Its id
        id: String,
    },
    /// Let it run again, from now on
    Resume {
        /// Its id
        id: String,
    },
    /// Run the instants of a range that have not run
    Backfill {
        /// Its id
        id: String,
        /// The first moment (RFC 3339)
        #[arg(long, value_name = "TIME")]
        from: broker_api::Time,
        /// The last moment (RFC 3339)
        #[arg(long, value_name = "TIME")]
        until: broker_api::Time,
    },
}

/// `evoke invoke NAME`
#[derive(Args, Clone, Debug)]
pub struct Invoke {
    /// NAME or NAME.NAMESPACE, with a path and query behind it if the function wants one (NAME/path?x=1)
    pub name: String,
    /// The body: text, @FILE, or - for standard input
    #[arg(long, short, value_name = "TEXT|@FILE|-")]
    pub data: Option<String>,
    /// A header field for the function (repeatable)
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE")]
    pub headers: Vec<String>,
    /// Where the result is posted to
    #[arg(long, value_name = "URL")]
    pub callback: Option<String>,
    /// Wait for the result, up to a minute, and print it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<broker_api::Span>,
    /// Run it not before this long from now
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "at")]
    pub delay: Option<broker_api::Span>,
    /// Run it not before this moment (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub at: Option<broker_api::Time>,
    /// Give it up when it has not succeeded for this long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub max_age: Option<broker_api::Span>,
    /// The call id; one is made otherwise
    #[arg(long, value_name = "ID")]
    pub call_id: Option<String>,
    /// A repeat of this key makes no second call
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// `evoke publish TOPIC`
#[derive(Args, Clone, Debug)]
pub struct Publish {
    /// What the event is about
    pub topic: String,
    /// The body: text, @FILE, or - for standard input
    #[arg(long, short, value_name = "TEXT|@FILE|-")]
    pub data: Option<String>,
    /// The source it comes from, as functions scope their patterns (api unless said)
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// A header field for the functions (repeatable)
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE")]
    pub headers: Vec<String>,
    /// A repeat of this key makes no second event
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// `evoke invocations …`
#[derive(Subcommand, Clone, Debug)]
pub enum InvocationsCommand {
    /// List invocations, newest first
    List {
        /// Calls of this function
        #[arg(long, value_name = "NAME")]
        function: Option<String>,
        /// In this state: waiting, delivering, completed, dead, cancelled
        #[arg(long)]
        state: Option<String>,
        /// With this call id
        #[arg(long, value_name = "ID")]
        call_id: Option<String>,
        /// Part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show one invocation with its timeline
    Show {
        /// Its id
        id: String,
    },
    /// Print the body as it was accepted
    Body {
        /// Its id
        id: String,
    },
    /// Take an invocation back; a delivery under way is stopped
    Cancel {
        /// Its id
        id: String,
    },
}

/// `evoke dead-letters …`
#[derive(Subcommand, Clone, Debug)]
pub enum DeadLettersCommand {
    /// List dead letters, latest first
    List {
        /// Calls of this function
        #[arg(long, value_name = "NAME")]
        function: Option<String>,
        /// Given up for this reason
        #[arg(long)]
        reason: Option<String>,
        /// Part of the list
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show one dead letter with its timeline
    Show {
        /// Its id
        id: String,
    },
    /// Print the body as it was accepted
    Body {
        /// Its id
        id: String,
    },
    /// Put one back, or all of a function
    #[command(group(clap::ArgGroup::new("which").required(true).args(["id", "function"])))]
    Redrive {
        /// Its id
        id: Option<String>,
        /// All of this function
        #[arg(long, value_name = "NAME")]
        function: Option<String>,
        /// Of them, those given up for this reason
        #[arg(long, requires = "function", conflicts_with = "id")]
        reason: Option<String>,
        /// Only count them
        #[arg(long, requires = "function", conflicts_with = "id")]
        dry_run: bool,
    },
    /// Remove one for good
    Remove {
        /// Its id
        id: String,
        /// Really: body and history are gone afterwards
        #[arg(long)]
        yes: bool,
    },
}

fn duration(text: &str) -> Result<broker_api::Span, String> {
    text.parse().map_err(|_| "write a duration such as 500ms, 30s, 5m or 1h".to_owned())
}
