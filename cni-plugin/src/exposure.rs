//! Host ports and hidden addresses of an attachment: its record on disk, its elements in nftables
//! and the connections that the kernel remembers, brought about and taken back together.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use podwire_kernel::conntrack::{Conntrack, Filter};
use podwire_kernel::nft::NftSocket;
use podwire_kernel::{IpFamily, Protocol};

use crate::attachment::{self, DIRECTORY, HostPort, Record, Records, TableError};
use crate::environment::Call;
use crate::error::Error;
use crate::lease::Owner;
use crate::streams;

/// Brings about what `record` says of the attachment of `call`, in the place of what an earlier ADD of it
/// did. If that fails, the record is as it was before, and so is nftables, but for what DEL finds there.
pub fn expose(call: &Call, record: &Record) -> Result<(), Error> {
    let Record {
        container_id,
        ifname,
        chained,
        ..
    } = record;
    let directory = Path::new(DIRECTORY);
    if record.is_empty() {
        return match Records::has(directory, container_id, ifname, *chained) {
            true => withdraw(call, *chained, || false).map(drop),
            false => Ok(()),
        };
    }
    let records = Records::create(directory)?;
    // An attachment that is there twice, for a runtime may repeat its ADD.
    let before = records.find(container_id, ifname, *chained);
    let record = &younger_than_all(record, &records);
    records.write(record)?;
    if let Err(error) = put_in_place(&records, record, matches!(before, Ok(None))) {
        let _ = match before {
            Ok(Some(before)) => records.write(&before),
            Ok(None) => records.remove(container_id, ifname, *chained).map(drop),
            // With some record DEL looks for what the one before had made.
            Err(_) => Ok(()),
        };
        return Err(error);
    }
    let is_other =
        |one: &Record| one.host_ports != record.host_ports || one.addresses != record.addresses;
    if let Some(before) = before.ok().flatten().filter(is_other) {
        forget_answers(&before);
    }
    forget(record, |port, address| Filter {
        original_destination: port.host_ip.filter(|one| !one.is_unspecified()),
        original_port: Some(port.host_port),
        family: Some(IpFamily::of(address)),
        ..Filter::default()
    });
    tell_of_idle_ports(record);
    Ok(())
}

/// Writes what `record` says into nftables, and takes out what else the attachment has there unless it is
/// new: other host ports, or another address. One transaction changes both tables, so if writing fails,
/// nothing is changed.
fn put_in_place(records: &Records, record: &Record, is_new: bool) -> Result<(), Error> {
    let mut socket = open().map_err(failed)?;
    attachment::apply(&mut socket, record).map_err(failed)?;
    // The elements of the other plugin in its list have the same comments: where its record cannot be
    // read, none can be told from those that were.
    let knows_other = || {
        let found = records.find(&record.container_id, &record.ifname, !record.chained);
        found.is_ok()
    };
    if !is_new && knows_other() {
        let owners = comments_of(&record.container_id, &record.ifname);
        let (all, _) = records.read_all()?;
        attachment::remove_owned(&mut socket, &owners, &all).map_err(failed)?;
    }
    Ok(())
}

/// Says which host ports lead nowhere: a container of one family has no address for a hostIP of the other.
fn tell_of_idle_ports(record: &Record) {
    for port in &record.host_ports {
        if pairs(&[port], &record.addresses).next().is_some() {
            continue;
        }
        let HostPort {
            protocol,
            host_ip,
            host_port,
            ..
        } = port;
        let family = match host_ip {
            Some(IpAddr::V4(_)) => "IPv4 ",
            Some(IpAddr::V6(_)) => "IPv6 ",
            None => "",
        };
        let owner = record.comment();
        streams::log(format_args!(
            "host port {host_port}/{protocol} of {owner} leads nowhere: the container has no {family}address"
        ));
    }
}

/// The record as the youngest of all: the younger one has a host port, and the clock may have been set
/// back since an older one was made.
fn younger_than_all(record: &Record, records: &Records) -> Record {
    let mut record = record.clone();
    if !record.host_ports.is_empty() {
        let (all, _) = records.read_all().unwrap_or_default();
        let youngest = all.iter().map(|other| other.since).max();
        let after = youngest.map_or(0, |youngest| youngest.saturating_add(1));
        record.since = record.since.max(after);
    }
    record
}

/// What was taken back may still be on its way out of the kernel while this value lives. Dropping
/// it waits for the end of that, some 20 milliseconds (`nft_rcv_nl_event`,
/// net/netfilter/nf_tables_api.c); so it is dropped when there is nothing else left to do.
#[derive(Debug)]
#[must_use]
pub struct Withdrawn {
    _socket: Option<NftSocket>,
}

/// Takes back the host ports and hidden addresses of the attachment of `call`. The record says what they
/// are, and the comments in nftables. If it is gone, they are looked for in nftables, but only if
/// `has_more` says that the configuration asks for some.
pub fn withdraw(
    call: &Call,
    chained: bool,
    has_more: impl FnOnce() -> bool,
) -> Result<Withdrawn, Error> {
    let records = Records::open(Path::new(DIRECTORY))?;
    let found = records.as_ref().map_or(Ok(None), |records| {
        records.find(&call.container_id, &call.ifname, chained)
    });
    match (&records, found) {
        (Some(records), Ok(Some(record))) => {
            let (others, _) = records.read_all()?;
            take_back(records, &record, &others)
        }
        (Some(records), Err(_)) => {
            let withdrawn = take_back_unread(Some(records), call)?;
            records.remove(&call.container_id, &call.ifname, chained)?;
            Ok(withdrawn)
        }
        // None, or one of another attachment whose name is the same: not ours to remove.
        (records, _) => {
            records.iter().for_each(Records::tidy);
            if !has_more() {
                return Ok(Withdrawn { _socket: None });
            }
            take_back_unread(records.as_ref(), call)
        }
    }
}

/// Takes back what the attachment of `call` has in nftables by what is written there: its record
/// cannot be read, or it is gone, perhaps with all others. The kernel may go on remembering UDP
/// connections for a while.
fn take_back_unread(records: Option<&Records>, call: &Call) -> Result<Withdrawn, Error> {
    let Some(mut socket) = open_if_any()? else {
        return Ok(Withdrawn { _socket: None });
    };
    let owner = attachment::owner(&call.container_id, &call.ifname);
    // Of the same attachment, and of others whose elements an earlier version named alike.
    let all = records.map_or_else(|| Ok(Default::default()), Records::read_all);
    let (others, _) = all?;
    let owners = comments_of(&call.container_id, &call.ifname);
    // A runtime may repeat its DEL, and then there is nothing to tell.
    if attachment::remove_owned(&mut socket, &owners, &others).map_err(failed)? {
        streams::log(format_args!(
            "the attachment record of {owner} is gone or cannot be read; what nftables named as its \
             own is removed"
        ));
    }
    Ok(Withdrawn {
        _socket: Some(socket),
    })
}

/// Takes back what all attachments have that `is_stale` names; goes on after a failure.
pub fn withdraw_all(is_stale: &dyn Fn(&Record) -> bool) -> Result<(), Error> {
    let Some(records) = Records::open(Path::new(DIRECTORY))? else {
        return Ok(());
    };
    records.tidy();
    // What cannot be read is of no known network. The agent ends it, after its link.
    let (all, _) = records.read_all()?;
    let (stale, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(is_stale);
    let taken_back = stale
        .iter()
        .map(|record| take_back(&records, record, &kept));
    Error::collect(taken_back.filter_map(Result::err).collect())
}

/// With what the comments of an attachment's elements end, in this version and in an earlier one.
fn comments_of(container_id: &str, ifname: &str) -> [String; 2] {
    [
        attachment::owner(container_id, ifname),
        attachment::former_owner(container_id, ifname),
    ]
}

/// Takes back what attachments have that are `gone`, by what is written in nftables, but nothing of those
/// that `live`: their records may be lost. An element does not say of which network it is, so those of
/// which nothing is known stay. Then takes the tables away that no one needs: without records and
/// elements, and the guard of 127.0.0.0/8 as long as a link needs it. So it comes after the links of what
/// is gone.
pub fn remove_unrecorded(gone: &BTreeSet<Owner>, live: &BTreeSet<Owner>) -> Result<(), Error> {
    let Some(records) = Records::open(Path::new(DIRECTORY))? else {
        return Ok(());
    };
    let comments = |owners: &BTreeSet<Owner>| -> BTreeSet<String> {
        let owners = owners.iter();
        owners
            .flat_map(|one| comments_of(&one.container_id, one.likely_ifname()))
            .collect()
    };
    let owners = Vec::from_iter(&comments(gone) - &comments(live));
    let unrecorded = records.count()? == 0;
    if owners.is_empty() && !unrecorded {
        return Ok(());
    }
    let (kept, _) = records.read_all()?;
    let Some(mut socket) = open_if_any()? else {
        return Ok(());
    };
    if !owners.is_empty() {
        attachment::remove_owned(&mut socket, &owners, &kept).map_err(failed)?;
    }
    match unrecorded {
        true => attachment::clear(&mut socket).map_err(failed),
        false => Ok(()),
    }
}

/// Takes back what `record` says, and the record. Of the host ports that it had, those that the records
/// of `others` name, the oldest first, are theirs again.
pub fn take_back(
    records: &Records,
    record: &Record,
    others: &[Record],
) -> Result<Withdrawn, Error> {
    let mut socket = open_if_any()?;
    if let Some(socket) = &mut socket {
        let others: Vec<_> = others.iter().filter(|other| *other != record).collect();
        attachment::remove(socket, record, &others).map_err(failed)?;
        forget_answers(record);
    }
    records.remove(&record.container_id, &record.ifname, record.chained)?;
    Ok(Withdrawn { _socket: socket })
}

/// What the attachment of `call` has on record; `None` if nothing, or nothing that can be read.
pub fn recorded(call: &Call, chained: bool) -> Result<Option<Record>, Error> {
    let records = Records::open(Path::new(DIRECTORY))?;
    Ok(records.and_then(|all| all.get(&call.container_id, &call.ifname, chained)))
}

/// Fails if something that `record` says is missing in nftables.
pub fn check(record: &Record) -> Result<(), Error> {
    let found = open().and_then(|mut socket| attachment::has_all(&mut socket, record));
    if found.map_err(failed)? {
        return Ok(());
    }
    Err(Error::Changed {
        difference: format!(
            "nftables elements of {} are missing in the tables {} {} and {}",
            record.comment(),
            attachment::FAMILY,
            attachment::HOSTPORTS,
            attachment::IPMASQ,
        ),
    })
}

/// The time for [`Record::since`].
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // Nanoseconds fit until the year 2554; a clock before 1970 makes the attachment the oldest.
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Makes the kernel forget the UDP connections that the container of `record` answers.
fn forget_answers(record: &Record) {
    forget(record, |port, address| Filter {
        reply_source: Some(address),
        reply_port: Some(port.container_port),
        ..Filter::default()
    });
}

/// Makes the kernel forget UDP connections through the host ports of `record`: as long as packets
/// come, a connection goes where its first packet went, to the node itself before there was a port,
/// or to a container that is gone. Rules are in place by now, so what comes next takes the new way.
fn forget(record: &Record, filter: impl Fn(&HostPort, IpAddr) -> Filter) {
    let udp = |port: &&HostPort| port.protocol == Protocol::Udp;
    let ports: Vec<_> = record.host_ports.iter().filter(udp).collect();
    if ports.is_empty() {
        return;
    }
    let forgotten = Conntrack::open().and_then(|mut conntrack| {
        for (port, address) in pairs(&ports, &record.addresses) {
            conntrack.delete(&Filter {
                protocol: Some(Protocol::Udp),
                ..filter(port, address)
            })?;
        }
        Ok(())
    });
    if let Err(error) = forgotten {
        // The port works for each client that has not used it lately.
        streams::log(format_args!(
            "{error}; UDP clients that have just used the host ports of {} may not reach it until \
             their connections have timed out",
            record.comment()
        ));
    }
}

/// The ports with the addresses that they lead to.
fn pairs<'a>(
    ports: &'a [&'a HostPort],
    addresses: &'a [IpAddr],
) -> impl Iterator<Item = (&'a HostPort, IpAddr)> {
    let both = ports
        .iter()
        .flat_map(|port| addresses.iter().map(|address| (*port, *address)));
    both.filter(|(port, address)| {
        port.host_ip
            .is_none_or(|one| one.is_ipv4() == address.is_ipv4())
    })
}

fn open() -> Result<NftSocket, TableError> {
    Ok(NftSocket::open()?)
}

/// A socket to take something back; `None` if the kernel has no nftables, where nothing is.
fn open_if_any() -> Result<Option<NftSocket>, Error> {
    NftSocket::open_if_any().map_err(|error| failed(error.into()))
}

fn failed(source: TableError) -> Error {
    Error::Nftables {
        purpose: "host ports and ipMasq",
        source,
    }
}
