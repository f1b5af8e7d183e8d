//! Programs of the distribution that the lab shows to people and uses as oracles. The plugin and
//! the agent need none of them.

use std::path::Path;

use crate::command;
use crate::error::{Error, Result};

/// Each program and the Debian package that has it.
const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("tcpdump", "tcpdump"),
    ("curl", "curl"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
];

/// An error that names all that are missing.
pub fn require() -> Result<()> {
    let path = command::search_path();
    let present = |name: &str| {
        path.split(':')
            .any(|part| Path::new(part).join(name).is_file())
    };
    let (programs, packages): (Vec<_>, Vec<_>) = TOOLS
        .into_iter()
        .filter(|(program, _)| !present(program))
        .unzip();
    if programs.is_empty() {
        return Ok(());
    }
    Err(Error::NoTools {
        programs: programs.join(", "),
        packages: packages.join(" "),
    })
}
