//! The kernel settings without which a node forwards nothing.
//!
//! In: the uplink. Out: `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding` are 1, and an
//! uplink that learns its IPv6 routes from router advertisements goes on doing so (a forwarding
//! interface ignores them unless `accept_ra` is 2, Documentation/networking/ip-sysctl.rst). What
//! cannot be written is a warning, never a failure. What is changed is written down, so that
//! `uninstall` can put it back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kernel::sysctl;

use crate::config::Config;
use crate::reconcile::{Event, Feature, SyncError, Synced, Warn, World};
use crate::report::Report;
use crate::warnings::Warning;

const IPV4: &str = "net/ipv4/ip_forward";
const IPV6: &str = "net/ipv6/conf/all/forwarding";

/// The file in the run directory that keeps the values before ours.
const ORIGINALS: &str = "sysctl.json";

/// The record of changed settings cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct RecordError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The feature.
#[derive(Debug, Default)]
pub struct Forwarding;

impl Feature for Forwarding {
    fn name(&self) -> &'static str {
        "forwarding"
    }

    fn heed(&mut self, event: &Event<'_>, _: &World<'_>) -> bool {
        matches!(event, Event::Uplink | Event::Resync)
    }

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        let mut warnings = Vec::new();
        let mut writes = 0;
        for (key, value, consequence) in desired(world.uplink.map(|uplink| uplink.name.as_str())) {
            match ensure(&key, value, &world.config.run_dir) {
                Ok(changed) => writes += u64::from(changed),
                Err(error) => {
                    let text = format!("{}; {consequence}", crate::chain(error.as_ref()));
                    warnings.push(Warning::new(format!("sysctl {key}"), text));
                }
            }
        }
        warn.replace(warnings);
        Ok(Synced {
            writes,
            again: false,
        })
    }

    fn report(&mut self, world: &World<'_>, report: &mut Report) {
        for (key, value, _) in desired(world.uplink.map(|uplink| uplink.name.as_str())) {
            match sysctl::read(&key) {
                Ok(found) if found != value => {
                    report
                        .differences
                        .push(format!("sysctl {key} is {found}, not {value}"));
                }
                _ => {}
            }
        }
    }

    fn uninstall(&mut self, config: &Config) -> Result<Vec<String>, SyncError> {
        let path = config.run_dir.join(ORIGINALS);
        let mut restored = Vec::new();
        for (key, value) in read_originals(&path)? {
            // An interface that is gone took its settings with it.
            match sysctl::ensure(&key, &value) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => restored.push(format!("our value of sysctl {key}: it is {value} again")),
            }
        }
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RecordError {
                operation: "remove",
                path,
                source,
            }
            .into()),
            _ => Ok(restored),
        }
    }
}

/// Settings, their values, and what follows if they cannot be had. The order matters: an uplink
/// must not be deaf to router advertisements for a moment.
fn desired(uplink: Option<&str>) -> Vec<(String, &'static str, &'static str)> {
    let mut all = vec![(
        IPV4.to_owned(),
        "1",
        "IPv4 pods reach nothing beyond this node; set it on the node itself",
    )];
    if sysctl::read(IPV6).is_err() {
        // A kernel without IPv6 has nothing to forward.
        return all;
    }
    let accept_ra = uplink.map(|uplink| format!("net/ipv6/conf/{uplink}/accept_ra"));
    if let Some(key) = accept_ra.filter(|key| sysctl::read(key).is_ok_and(|value| value == "1")) {
        let consequence = "this node loses IPv6 routes that it learns from router advertisements";
        all.push((key, "2", consequence));
    }
    let consequence = "IPv6 pods reach nothing beyond this node; set it on the node itself";
    all.push((IPV6.to_owned(), "1", consequence));
    all
}

/// Sets a value unless it is set, and keeps the one before; says whether it had to be changed.
fn ensure(key: &str, value: &str, run_dir: &Path) -> Result<bool, SyncError> {
    let before = sysctl::read(key)?;
    if before == value {
        return Ok(false);
    }
    let path = run_dir.join(ORIGINALS);
    let mut originals = read_originals(&path)?;
    originals.entry(key.to_owned()).or_insert(before);
    write_originals(&path, &originals)?;
    sysctl::write(key, value)?;
    tracing::info!(key, value, "kernel setting changed");
    Ok(true)
}

fn read_originals(path: &Path) -> Result<BTreeMap<String, String>, RecordError> {
    let failed = |source| RecordError {
        operation: "read",
        path: path.to_owned(),
        source,
    };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(failed(error)),
    }
}

fn write_originals(path: &Path, originals: &BTreeMap<String, String>) -> Result<(), RecordError> {
    let write = || {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let temporary = path.with_extension("temp");
        fs::write(&temporary, serde_json::to_vec_pretty(originals)?)?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| RecordError {
        operation: "write",
        path: path.to_owned(),
        source,
    })
}
