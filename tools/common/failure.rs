//! What can go wrong in a tool, by what the caller can do about it; the exit code follows.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The command line or an input file is wrong, or the library refuses the problem.
    Usage(String),
    /// This machine cannot do it: no driver, no such device, a library without GPU kernels.
    Environment(String),
    /// The run itself failed.
    Run(String),
}

impl Failure {
    pub fn exit_code(&self) -> i32 {
        match self {
            Failure::Run(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Environment(_) => 3,
        }
    }

    /// Puts what was being done before the message.
    pub fn context(self, what: &str) -> Failure {
        match self {
            Failure::Usage(m) => Failure::Usage(format!("{what}: {m}")),
            Failure::Environment(m) => Failure::Environment(format!("{what}: {m}")),
            Failure::Run(m) => Failure::Run(format!("{what}: {m}")),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Failure::Usage(m) | Failure::Environment(m) | Failure::Run(m) => f.write_str(m),
        }
    }
}

/// Messages of the CUDA layer: calls that fail after the device was opened.
impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::Run(message)
    }
}
