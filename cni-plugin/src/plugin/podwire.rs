//! `podwire` and `ptp`: a link with addresses for a container, and a way back to nothing.
//!
//! ADD validates everything first, then leases, makes the link, has policies enforced and programs
//! nftables, in this order, and undoes what it did if a later step fails. DEL goes the other way, goes
//! on after a failure, and takes it for success if something is gone already. Who is killed in
//! between leaves what the next DEL or GC removes: the names of all parts follow from the container.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use podwire_kernel::RouteSocket;
use podwire_kernel::netns::Netns;
use serde_json::Value;

use super::request::{Request, is_valid};
use super::{check, sandbox};
use crate::arguments::Arguments;
use crate::attachment::{Alias, LINK_GROUP, Record, host_link_name};
use crate::config::{Config, PortMappings};
use crate::environment::{Call, Verb};
use crate::error::{Error, chain};
use crate::exposure;
use crate::files;
use crate::ipam::Ipam;
use crate::lease::{Lease, Owner};
use crate::link::{self, Loopback, Prefix, Wanted};
use crate::policy::{self, Attachment, PodName};
use crate::result::{Attached, Dns};
use crate::streams;

/// Which of the two plugins it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Addresses are /32 and /128, the MTU follows the uplink, host ports are built in.
    Podwire,
    /// As the reference plugin does it.
    Ptp,
}

/// Carries out one call.
pub fn run(request: &Request<'_>, mode: Mode) -> Result<Option<Value>, Error> {
    match request.call.verb {
        Verb::Add => add(request, mode).map(Some),
        Verb::Del => del(request, mode).map(|()| None),
        Verb::Check => check(request, mode).map(|()| None),
        Verb::Status => status(request).map(|()| None),
        Verb::Gc => gc(request).map(|()| None),
        Verb::Version => Ok(None),
    }
}

/// Everything that ADD needs from the configuration.
struct Plan {
    ipam: Ipam,
    mtu: Option<u32>,
    dns: Dns,
    alias: Alias,
    host_name: String,
    prefix: Prefix,
    ip_masq: bool,
    ports: Option<PortMappings>,
    pod: Option<PodName>,
}

impl Plan {
    fn read(request: &Request<'_>, mode: Mode) -> Result<Self, Error> {
        let Request { call, config, .. } = request;
        // Another plugin that gives addresses may understand what we do not.
        let arguments = if Ipam::is_built_in(&config.fields) {
            Arguments::parse(&call.arguments)?
        } else {
            Arguments::understood(&call.arguments)
        };
        let pod = arguments.pod();
        let ip_masq = config.ip_masq()?;
        if ip_masq {
            config.check_backend("ipMasqBackend")?;
        }
        Ok(Self {
            ipam: Ipam::read(
                &config.fields,
                config.name,
                config.version,
                &arguments,
                true,
            )?,
            mtu: config.mtu()?,
            dns: config.dns()?,
            alias: Alias {
                container_id: call.container_id.clone(),
                ifname: call.ifname.clone(),
                network: config.name.to_owned(),
                pod: pod.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
                unnamed: false,
                uid: arguments.pod_name().and_then(|pod| pod.uid),
            },
            host_name: host_link_name(&call.container_id, &call.ifname),
            prefix: match mode {
                Mode::Podwire => Prefix::Full,
                Mode::Ptp => Prefix::Subnet,
            },
            ip_masq,
            // The reference plugin leaves them to a later one in the list.
            ports: match mode {
                Mode::Podwire => Some(config.port_mappings()?),
                Mode::Ptp => None,
            },
            pod: arguments.pod_name(),
        })
    }

    /// What has to be in nftables for these addresses.
    fn record(&self, attached: &Attached) -> Result<Record, Error> {
        let ports = self.ports.as_ref();
        let networks = attached.ips.iter().map(|ip| ip.address);
        let addresses: Vec<_> = networks.clone().map(|network| network.ip()).collect();
        let host_ports = ports.map(|ports| ports.distinct(&addresses));
        Ok(Record {
            container_id: self.alias.container_id.clone(),
            ifname: self.alias.ifname.clone(),
            network: self.alias.network.clone(),
            pod: self.alias.pod.clone(),
            since: exposure::now(),
            chained: false,
            addresses,
            host_ports: host_ports.transpose()?.unwrap_or_default(),
            snat: ports.is_some_and(|ports| ports.snat),
            masquerade_all: ports.is_some_and(|ports| ports.masquerade_all),
            ip_masq: if self.ip_masq {
                networks.collect()
            } else {
                Vec::new()
            },
        })
    }
}

fn add(request: &Request<'_>, mode: Mode) -> Result<Value, Error> {
    let Request {
        call,
        stdin,
        config,
    } = request;
    let mut plan = Plan::read(request, mode)?;
    trust_run_dir(config.agent()?)?;
    let netns = sandbox::open(call)?;
    if plan.ipam.gives_back_all() {
        // The other plugin's DEL would take the addresses of the link that is there.
        link::refuse_if_there(&plan.host_name, &call.ifname)?;
    }
    let mut attached = plan.ipam.add(call, stdin, config.version)?;
    let addresses: Vec<_> = attached.ips.iter().map(|ip| ip.address.ip()).collect();
    if mode == Mode::Podwire && plan.mtu.is_none() {
        plan.mtu = link::followed_mtu(&addresses);
    }
    let added = attach(request, &plan, &netns, &mut attached);
    if added.is_err() {
        // The error that stopped us is the one to tell.
        let _ = plan.ipam.undo(call, stdin, &addresses);
    }
    added
}

fn attach(
    request: &Request<'_>,
    plan: &Plan,
    netns: &Netns,
    attached: &mut Attached,
) -> Result<Value, Error> {
    let Request { call, config, .. } = request;
    let record = plan.record(attached)?;
    let wanted = Wanted {
        host_name: &plan.host_name,
        ifname: &call.ifname,
        netns,
        sandbox: &call.sandbox(),
        mtu: plan.mtu,
        alias: &plan.alias,
        prefix: plan.prefix,
        loopback: Loopback {
            v4: record.reaches_loopback(true),
            v6: record.reaches_loopback(false),
        },
    };
    let agent = config.agent()?;
    link::create(&wanted, attached)?;
    if plan.dns.is_set() {
        attached.dns = plan.dns.clone();
    }
    let subject = policy_subject(call, plan.pod.clone(), record.addresses.clone());
    let admitted = policy::admit(agent, &subject);
    let exposed = admitted.and_then(|()| exposure::expose(call, &record));
    let printed = exposed.and_then(|()| Ok(attached.print(config.version)?));
    if printed.is_err() {
        // The error that stopped us is the one to tell.
        let _ = exposure::withdraw(call, false, || false);
        let _ = link::delete(&plan.host_name);
        let _ = policy::discharge(agent, &subject);
    }
    printed
}

/// The attachment of a call, as policies know it.
fn policy_subject(call: &Call, pod: Option<PodName>, addresses: Vec<IpAddr>) -> Attachment {
    Attachment {
        link: host_link_name(&call.container_id, &call.ifname),
        container_id: call.container_id.clone(),
        ifname: call.ifname.clone(),
        pod,
        addresses,
    }
}

fn del(request: &Request<'_>, mode: Mode) -> Result<(), Error> {
    let Request { call, stdin, .. } = request;
    let mut failures = Vec::new();
    let withdrawn = exposure::withdraw(call, false, || {
        asks_for_record(request, mode).unwrap_or_default()
    });
    failures.extend(del_link(call).err());
    let released = location_of(request).and_then(|ipam| {
        failures.extend(discharge(request, &ipam).err());
        ipam.release(call, stdin)
    });
    failures.extend(released.err());
    failures.extend(withdrawn.err());
    Error::collect(failures)
}

/// Takes the addresses out of the rules of policies, before another container can get them.
fn discharge(request: &Request<'_>, ipam: &Ipam) -> Result<(), Error> {
    let Request { call, config, .. } = request;
    let agent = agent_of(config);
    if !policy::may_come(agent) {
        return Ok(());
    }
    let addresses = match ipam.addresses(call)? {
        Some(addresses) => addresses,
        None => config.previous_addresses(),
    };
    // Whose it was is a help to the agent, and no reason to keep anything.
    let arguments = Arguments::understood(&call.arguments);
    let subject = policy_subject(call, arguments.pod_name(), addresses);
    policy::discharge(agent, &subject)
}

/// Where the agent is, for what must not fail.
fn agent_of<'a>(config: &'a Config<'_>) -> policy::Agent<'a> {
    config.agent().unwrap_or_else(|error| {
        streams::log(format_args!(
            "where podwire-agent is, is not understood: {error}; it is looked for in its usual \
             directory",
            error = chain(&error)
        ));
        policy::Agent::default()
    })
}

/// Deletes the link, by whatever end can be found.
fn del_link(call: &Call) -> Result<(), Error> {
    let deleted = link::delete(&host_link_name(&call.container_id, &call.ifname))?;
    // If the namespace is gone, so is everything that was in it.
    if !deleted && let Some(netns) = sandbox::open_if_there(call)? {
        let owner = Owner::new(&call.container_id, &call.ifname);
        link::delete_in_container(&netns, &owner)?;
    }
    Ok(())
}

fn status(request: &Request<'_>) -> Result<(), Error> {
    let Request {
        call,
        stdin,
        config,
    } = request;
    let ipam = Ipam::read(
        &config.fields,
        config.name,
        config.version,
        &Arguments::default(),
        true,
    )?;
    ipam.status(call, stdin)?;
    let agent = config.agent()?;
    trust_run_dir(agent)?;
    policy::status(agent)
}

/// What lies there decides which pods start without the agent.
fn trust_run_dir(agent: policy::Agent<'_>) -> Result<(), Error> {
    let tighten = |path: &Path| {
        files::tighten(path).map_err(|source| Error::RunDir {
            path: path.to_owned(),
            source,
        })
    };
    tighten(agent.run_dir)?;
    tighten(&agent.run_dir.join(policy::DIRECTORY))
}

/// Removes what belongs to attachments of this network that the runtime does not list. A link
/// says by its alias to which network it belongs; networks of other names are left alone.
fn gc(request: &Request<'_>) -> Result<(), Error> {
    let Request {
        call,
        stdin,
        config,
    } = request;
    let valid = config.valid_attachments()?;
    let mut failures = Vec::new();
    let exposed = exposure::withdraw_all(&|record| {
        let owner = Owner::new(&record.container_id, &record.ifname);
        !record.chained && record.network == config.name && !valid.contains(&owner)
    });
    failures.extend(exposed.err());
    let is_stale = |alias: &Alias| {
        let ours = alias.network == config.name;
        let name = |ifname: &Option<String>| ifname.clone().unwrap_or_default();
        let listed = valid
            .iter()
            .any(|one| alias.is_of(&one.container_id, &name(&one.ifname)));
        ours && !listed
    };
    let (mut gone, mut live) = (BTreeSet::new(), valid.clone());
    match aliases() {
        Ok(aliases) => {
            for (name, alias) in aliases {
                let stale = is_stale(&alias);
                let owner = Owner::new(&alias.container_id, &alias.ifname);
                if stale {
                    failures.extend(link::delete(&name).err());
                }
                if stale { &mut gone } else { &mut live }.insert(owner);
            }
        }
        Err(error) => failures.push(error),
    }
    match location_of(request) {
        Ok(ipam) => {
            let keep = |owner: &Owner| is_valid(&valid, owner);
            let mut part = |leases: &[Lease]| {
                // One without an interface may be about another than what has host ports.
                let owners = leases.iter().map(|lease| &lease.owner);
                gone.extend(owners.filter(|owner| owner.ifname.is_some()).cloned());
                failures.extend(part(leases, config.name, agent_of(config)));
            };
            let collected = ipam.collect(call, stdin, &keep, &mut part);
            failures.extend(collected.err());
        }
        Err(error) => failures.push(error),
    }
    failures.extend(exposure::remove_unrecorded(&gone, &live).err());
    Error::collect(failures)
}

/// Removes what is left of attachments whose leases are about to go.
fn part(leases: &[Lease], network: &str, agent: policy::Agent<'_>) -> Vec<Error> {
    // A link whose alias was taken away is still known by its name.
    let owners: BTreeSet<&Owner> = leases.iter().map(|lease| &lease.owner).collect();
    let deleted = owners.into_iter().map(|owner| {
        let host_name = host_link_name(&owner.container_id, owner.likely_ifname());
        link::delete_of(&host_name, network)
    });
    let failures = deleted.filter_map(Result::err).collect();
    if policy::may_come(agent) {
        let addresses: Vec<_> = leases.iter().map(|lease| lease.address).collect();
        policy::forget_connections(&addresses);
    }
    failures
}

/// The names of the host ends of links, with their aliases.
fn aliases() -> Result<Vec<(String, Alias)>, Error> {
    let links = RouteSocket::open().and_then(|mut socket| socket.links());
    let links = links
        .map_err(Error::kernel("links of the node"))?
        .into_iter();
    let ours = links.filter(|link| link.group == LINK_GROUP);
    let ours = ours.filter_map(|link| {
        let alias = link.alias.as_deref().and_then(Alias::parse)?;
        Some((link.name, alias))
    });
    Ok(ours.collect())
}

/// Who gives addresses, as far as it matters to release them.
fn location_of(request: &Request<'_>) -> Result<Ipam, Error> {
    let Request { config, .. } = request;
    let arguments = Arguments::default();
    Ipam::read(
        &config.fields,
        config.name,
        config.version,
        &arguments,
        false,
    )
}

fn check(request: &Request<'_>, mode: Mode) -> Result<(), Error> {
    let Request {
        call,
        stdin,
        config,
    } = request;
    let netns = sandbox::open(call)?;
    location_of(request)?.check(call, stdin)?;
    let Some(previous) = config.previous()? else {
        return Err(Error::config("ptp: Required prevResult missing"));
    };
    check::container(call, &netns, &previous)?;
    if mode == Mode::Podwire {
        check::host(call, &previous)?;
    }
    match exposure::recorded(call, false)? {
        Some(record) => exposure::check(&record),
        None => check_asks_for_no_record(request, mode),
    }
}

/// Whether an attachment with this configuration has something in nftables.
fn asks_for_record(request: &Request<'_>, mode: Mode) -> Result<bool, Error> {
    let config = &request.config;
    let maps = mode == Mode::Podwire && !config.port_mappings()?.ports.is_empty();
    Ok(maps || config.ip_masq()?)
}

/// Without its record nothing puts back what an attachment has in nftables.
fn check_asks_for_no_record(request: &Request<'_>, mode: Mode) -> Result<(), Error> {
    if !asks_for_record(request, mode)? {
        return Ok(());
    }
    let owner = Owner::new(&request.call.container_id, &request.call.ifname);
    Err(Error::Changed {
        difference: format!(
            "the attachment record of {owner} is gone or cannot be read; delete the container and \
             start it again"
        ),
    })
}
