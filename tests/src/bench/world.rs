//! Where the bench runs: namespaces of its own, a directory in memory, the programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use podwire_kernel::netns::Netns;
use podwire_kernel::sysctl;

use crate::Options;

/// The floor program, compiled when the bench starts.
const FLOOR: &str = include_str!("floor.c");

/// Everything is in memory and vanishes with the mount namespace.
const ROOT: &str = "/run";

/// The machine as the bench sees it.
pub struct World {
    /// The plugin under test.
    pub podwire: PathBuf,
    /// The agent under test.
    pub agent: PathBuf,
    /// Directory of the reference plugins.
    pub reference: PathBuf,
    /// The floor program.
    pub floor: PathBuf,
}

impl World {
    /// Moves this process into namespaces of its own and prepares the programs.
    pub fn create(options: &Options) -> Result<Self, String> {
        let podwire = binary(options, "podwire")?;
        let agent = binary(options, "podwire-agent")?;
        for plugin in ["ptp", "host-local", "portmap"] {
            let path = options.reference.join(plugin);
            if !path.exists() {
                return Err(format!(
                    "the reference plugin {} is missing; install the package \
                     containernetworking-plugins, or name its directory with --reference",
                    path.display()
                ));
            }
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .map_err(|error| format!("cannot make namespaces, run as root: {error}"))?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .and_then(|()| mount(Some("bench"), ROOT, Some("tmpfs"), MsFlags::empty(), none))
            .map_err(|error| format!("cannot mount a directory in memory on {ROOT}: {error}"))?;
        sysctl::write("net/ipv4/ip_forward", "1")
            .and_then(|()| sysctl::write("net/ipv6/conf/all/forwarding", "1"))
            .and_then(|()| podwire_kernel::RouteSocket::open()?.set_up(1))
            .map_err(|error| error.to_string())?;
        let floor = compile_floor()?;
        Ok(Self {
            podwire,
            agent,
            reference: options.reference.clone(),
            floor,
        })
    }

    /// A directory for leases, made if it is not there.
    pub fn directory(&self, name: &str) -> Result<PathBuf, String> {
        let path = Path::new(ROOT).join("bench").join(name);
        fs::create_dir_all(&path)
            .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(path)
    }

    /// Makes `count` network namespaces and returns their paths.
    pub fn pods(&self, name: &str, count: usize) -> Result<Vec<PathBuf>, String> {
        let directory = self.directory("netns")?;
        (0..count)
            .map(|number| {
                let path = directory.join(format!("{name}-{number}"));
                Netns::create_anonymous()
                    .and_then(|netns| netns.bind(&path))
                    .map_err(|error| error.to_string())?;
                Ok(path)
            })
            .collect()
    }
}

fn binary(options: &Options, name: &str) -> Result<PathBuf, String> {
    let directory = match &options.binaries {
        Some(directory) => directory.clone(),
        None => std::env::current_exe()
            .ok()
            .and_then(|path| path.parent().map(Path::to_owned))
            .ok_or("cannot find the directory of this program; use --binaries")?,
    };
    let path = directory.join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(format!(
        "{} is missing; build it, or name its directory with --binaries",
        path.display()
    ))
}

fn compile_floor() -> Result<PathBuf, String> {
    let (source, program) = (
        Path::new(ROOT).join("floor.c"),
        Path::new(ROOT).join("floor"),
    );
    fs::write(&source, FLOOR)
        .map_err(|error| format!("cannot write the floor program: {error}"))?;
    let compiled = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .args([&program, &source])
        .status()
        .map_err(|error| format!("cannot run the C compiler cc: {error}"))?;
    if compiled.success() {
        Ok(program)
    } else {
        Err("cc could not compile the floor".into())
    }
}
