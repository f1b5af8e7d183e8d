//! The CNI configuration that tells the container runtime to use the plugin.
//!
//! In: the own Node's podCIDRs and the uplink's MTU. Out: `00-podwire.conflist`. What must hold:
//! it appears only when everything that pods need is in place; it appears whole, or not at all;
//! it sorts first. Runtimes take the first file of the directory, so other configurations are
//! named in a warning. It is never taken away while the agent runs or when it stops: without it
//! running pods could not even be removed.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use ipnetwork::IpNetwork;
use podwire::files::{read, read_own};
use podwire::mtu;
use podwire::policy::RUN_DIR;
use serde::Serialize;

use crate::config::Config;
use crate::feature::{Event, Feature, SyncError, Synced, Warn, World};
use crate::files::{self, Durability, FileError};
use crate::ours::{CONFLIST as FILE, NETWORK, Removal};
use crate::report::{CniConfReport, Report};
use crate::snapshot::Node;
use crate::uplink::Uplink;
use crate::warnings::Warning;

/// More than a configuration with any number of podCIDRs.
const LONGEST: u64 = 1 << 20;

/// Why the configuration is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("pods cannot start until this works")]
pub struct ConfError(#[from] FileError);

/// The feature.
#[derive(Debug, Default)]
pub struct CniConf {
    /// What the log said is in place: a repair is told by the loop.
    told: Option<String>,
}

impl Feature for CniConf {
    fn name(&self) -> &'static str {
        "cniconf"
    }

    fn notice(&mut self, event: &Event<'_>, world: &World<'_>) -> bool {
        let own = world.own_name();
        world.config.cni_conf
            && match event {
                Event::Objects(dirty) => dirty.concerns_own_pod_cidrs(own),
                Event::Uplink | Event::Files | Event::Resync | Event::Ready => true,
                Event::Kernel(_) | Event::Told(_) | Event::WhoHas(_) => false,
            }
    }

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        let directory = &world.config.cni_conf_dir;
        create_directory(directory)?;
        let others = others(directory)?.into_iter();
        let mut warnings: Vec<_> = others.map(|name| competitor(directory, &name)).collect();
        let mut writes = 0;
        match desired(world) {
            Ok(wanted) => {
                warnings.extend(wanted.warning);
                // The features that are not ready say themselves what is wrong.
                if world.ready_for_pods {
                    writes = self.write(directory, wanted.text)?;
                }
            }
            Err(mut reason) => {
                if directory.join(FILE).exists() {
                    reason += "; pods get addresses as the file of before says";
                }
                warnings.push(Warning::new("CNI configuration", reason));
            }
        }
        warn.replace(warnings);
        Ok(Synced {
            writes,
            again: false,
        })
    }

    fn report(&mut self, world: &World<'_>, report: &mut Report) {
        if !world.config.cni_conf {
            return;
        }
        let path = world.config.cni_conf_dir.join(FILE);
        let present = read(&path, LONGEST).ok();
        let wanted = desired(world).map(|wanted| wanted.text.into_bytes());
        let current = wanted.as_ref().ok() == present.as_ref();
        if wanted.is_ok() && !current {
            let what = match present {
                Some(_) => "is not what is wanted",
                None => "is missing",
            };
            let path = path.display();
            report.differences.push(format!("the file {path} {what}"));
        }
        // A directory that cannot be read has failed the last sync too.
        let others = others(&world.config.cni_conf_dir).unwrap_or_default();
        let (before, after): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|name| sorts_before(name));
        let texts = |names: Vec<OsString>| {
            let text = |name: &OsString| name.to_string_lossy().into_owned();
            names.iter().map(text).collect()
        };
        report.cni_conf = Some(CniConfReport {
            path,
            present: present.is_some(),
            current,
            waits: wanted.err(),
            before: texts(before),
            after: texts(after),
        });
    }

    fn uninstall(&mut self, config: &Config, how: Removal) -> Result<Vec<String>, SyncError> {
        let removed = files::uninstall(&config.cni_conf_dir.join(FILE), how)?;
        let named = |path: &std::path::PathBuf| format!("file {}", path.display());
        Ok(removed.iter().map(named).collect())
    }
}

impl CniConf {
    /// Puts the text in place unless it is there; returns the number of writes.
    fn write(&mut self, directory: &Path, text: String) -> Result<u64, ConfError> {
        let path = directory.join(FILE);
        if read(&path, LONGEST).is_ok_and(|present| present == text.as_bytes()) {
            return Ok(0);
        }
        files::replace(&path, text.as_bytes(), 0o644, Durability::Durable)?;
        if self.told.as_ref() != Some(&text) {
            tracing::info!(path = %path.display(), "CNI configuration is in place");
            self.told = Some(text);
        }
        Ok(1)
    }
}

/// The networks from which pods get their addresses by the configuration that is in place; none if it
/// is not ours.
pub fn networks_in_place(config: &Config) -> Vec<IpNetwork> {
    let path = config.cni_conf_dir.join(FILE);
    let text = read_own(&path, LONGEST).ok().flatten().unwrap_or_default();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let ranges = &value["plugins"][0]["ipam"]["ranges"];
    let ranges = ranges.as_array().into_iter().flatten();
    let ranges = ranges.filter_map(serde_json::Value::as_array).flatten();
    let networks = ranges.filter_map(|range| range["subnet"].as_str()?.parse().ok());
    networks
        .filter(|network: &IpNetwork| network.ip() == network.network())
        .collect()
}

/// The configuration that there should be.
#[derive(Debug)]
pub struct Desired {
    text: String,
    /// It is not quite what one would expect.
    warning: Option<Warning>,
}

/// What should be there, or what is missing for it.
pub fn desired(world: &World<'_>) -> Result<Desired, String> {
    let name = world.own_name();
    let own = world
        .own_node()
        .ok_or_else(|| format!("waits for Node {name} to exist"))?;
    let mtu = match (world.config.mtu, world.uplink) {
        (Some(mtu), _) => Mtu::Given(mtu),
        (None, Some(uplink)) => Mtu::Followed(uplink),
        (None, None) => return Err("waits for the uplink, whose MTU pods take".to_owned()),
    };
    let networks: Vec<IpNetwork> = world.snapshot.pod_cidrs_of(own).collect();
    if networks.is_empty() {
        return Err(nothing_to_give(own, world));
    }
    let (mtu, warning) = mtu.of_pods(networks.iter().any(IpNetwork::is_ipv6));
    let lease_dir = world.config.lease_dir();
    let value = conflist(&networks, mtu, &lease_dir, world.config);
    let mut text = serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?;
    text.push('\n');
    Ok(Desired { text, warning })
}

/// Why this node has no addresses for pods.
fn nothing_to_give(own: &Node, world: &World<'_>) -> String {
    let (name, mut cidrs) = (&own.name, own.pod_cidrs.iter());
    match cidrs.find_map(|cidr| world.snapshot.why_left_out(own, *cidr)) {
        Some(why) => format!(
            "cannot give addresses to pods of Node {name}: {why}; the cluster needs pod addresses that \
             nothing else has"
        ),
        None => format!("waits for Node {name} to have a podCIDR"),
    }
}

/// Where the MTU of new pods comes from.
enum Mtu<'a> {
    Given(u32),
    Followed(&'a Uplink),
}

impl Mtu<'_> {
    /// The MTU, and what is to be said if it is not the one of the uplink that it follows.
    fn of_pods(self, ipv6: bool) -> (u32, Option<Warning>) {
        let Uplink { name, mtu, .. } = match self {
            Mtu::Given(mtu) => return (mtu, None),
            Mtu::Followed(uplink) => uplink,
        };
        let followed = mtu::following(*mtu, ipv6);
        let warning = (followed != *mtu).then(|| {
            let text = format!(
                "has an MTU of {mtu} bytes, which links of pods cannot follow: IPv6 needs {} at least, \
                 and no link takes more than {}; new ones get {followed}, give --mtu if they should \
                 have another",
                mtu::SMALLEST_IPV6,
                mtu::LARGEST
            );
            Warning::new(format!("uplink {name}"), text)
        });
        (followed, warning)
    }
}

/// The file, its fields in the order in which a person reads them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Conflist<'a> {
    /// The newest version that old runtimes know; new ones choose from the list.
    cni_version: &'static str,
    cni_versions: [&'static str; 4],
    name: &'static str,
    plugins: [Plugin<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plugin<'a> {
    r#type: &'static str,
    ip_masq: bool,
    mtu: u32,
    /// Only where it is not where the plugin looks anyway.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_dir: Option<&'a Path>,
    /// The plugin waits for the agent where policies may be about a pod.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    network_policy: bool,
    capabilities: Capabilities,
    ipam: Ipam<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    port_mappings: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ipam<'a> {
    r#type: &'static str,
    data_dir: &'a Path,
    /// One address for each outer list, from any of its networks that has a free one.
    ranges: Vec<Vec<Range>>,
    routes: Vec<Destination>,
}

#[derive(Serialize)]
struct Range {
    subnet: IpNetwork,
}

#[derive(Serialize)]
struct Destination {
    dst: &'static str,
}

fn conflist<'a>(
    networks: &[IpNetwork],
    mtu: u32,
    lease_dir: &'a Path,
    config: &'a Config,
) -> Conflist<'a> {
    let (mut ranges, mut routes) = (Vec::new(), Vec::new());
    for (v6, dst) in [(false, "0.0.0.0/0"), (true, "::/0")] {
        let of_family = networks.iter().filter(|network| network.is_ipv6() == v6);
        let pool: Vec<Range> = of_family
            .map(|network| Range { subnet: *network })
            .collect();
        if !pool.is_empty() {
            ranges.push(pool);
            routes.push(Destination { dst });
        }
    }
    let capabilities = Capabilities {
        port_mappings: true,
    };
    let ipam = Ipam {
        r#type: "host-local",
        data_dir: lease_dir,
        ranges,
        routes,
    };
    Conflist {
        cni_version: "1.0.0",
        cni_versions: ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        name: NETWORK,
        plugins: [Plugin {
            r#type: "podwire",
            ip_masq: false,
            mtu,
            run_dir: Some(&*config.run_dir).filter(|path| *path != Path::new(RUN_DIR)),
            network_policy: config.network_policy,
            capabilities,
            ipam,
        }],
    }
}

fn create_directory(path: &Path) -> Result<(), ConfError> {
    Ok(podwire::files::create_directory(path).map_err(FileError::of("create", path))?)
}

/// The names of other configurations in the directory, which need not be text.
fn others(directory: &Path) -> Result<BTreeSet<OsString>, ConfError> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(FileError::of("list", directory))? {
        let entry = entry.map_err(FileError::of("list", directory))?;
        let (path, name) = (entry.path(), entry.file_name());
        let extension = path.extension().and_then(OsStr::to_str);
        let is_conf = matches!(extension, Some("conf" | "conflist" | "json"));
        let is_directory = entry.file_type().is_ok_and(|found| found.is_dir());
        if is_conf && name != FILE && !is_directory {
            names.insert(name);
        }
    }
    Ok(names)
}

/// As the runtimes sort: byte by byte.
fn sorts_before(name: &OsStr) -> bool {
    name < OsStr::new(FILE)
}

fn competitor(directory: &Path, name: &OsStr) -> Warning {
    let path = directory.join(name);
    let is_file = fs::metadata(&path).is_ok_and(|found| found.is_file());
    let text = match (sorts_before(name), is_file) {
        (true, true) => {
            format!("sorts before {FILE}, so the container runtime uses it; remove it")
        }
        (true, false) => format!(
            "is no file, or a link that leads to none, and sorts before {FILE}: there are container \
             runtimes that go no further; remove it"
        ),
        (false, _) => {
            format!("is not used, because {FILE} sorts before it; remove it if it is not needed")
        }
    };
    Warning::new(format!("file {}", path.display()), text)
}

#[cfg(test)]
mod tests;
