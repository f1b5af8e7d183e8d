//! What a person types.

/// One command of an observation.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// It runs to its end.
    Run {
        /// On which machine, in which pod.
        at: &'static str,
        /// The command. `{veth:POD}` stands for the link of a pod on its node.
        command: &'static str,
    },
    /// It goes on while the following commands run: a tcpdump, or a download.
    Watch {
        /// On which machine, in which pod.
        at: &'static str,
        /// The command, as in [`Step::Run`].
        command: &'static str,
    },
    /// What goes on is waited for here, and not only after the last command.
    Finish,
    /// It is repeated in silence until its output is as it should be.
    Until {
        /// On which machine, in which pod.
        at: &'static str,
        /// The command, as in [`Step::Run`].
        command: &'static str,
        /// Whether the output is as it should be.
        holds: fn(&str) -> bool,
    },
}
