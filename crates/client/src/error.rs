use std::io;

/// Why a client could not be started. Nothing runs, and nobody was asked anything.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The text that names the name servers.
    #[error("{address:?} names no name server: {why}. Give host:port, several separated by semicolons")]
    NameServers {
        /// What was given.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The group, or a topic that is subscribed to.
    #[error("{0}. Choose another name")]
    Name(#[from] keepmq_protocol::NameError),
    /// A value that makes no sense.
    #[error("{what} is {value}; it must be {must}")]
    Value {
        /// Which.
        what: &'static str,
        /// What was given.
        value: String,
        /// What would do.
        must: &'static str,
    },
    /// It was not started inside a tokio runtime.
    #[error("there is no tokio runtime here: start the client inside one")]
    Runtime,
    /// The operating system gave no thread or no descriptor.
    #[error("the system does not let a client run: {0}. Look at the limits of processes and open files")]
    System(#[from] io::Error),
}
