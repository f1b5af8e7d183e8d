//! A pod starts with its NetworkPolicies in force, and leaves nothing of them to the next owner of
//! its addresses.
//!
//! While there is any policy in the cluster, the kernel has the table [`TABLE`], and an address of
//! which no one has decided is closed. ADD therefore tells the agent of the attachment, and returns
//! when the agent has put its rules into the kernel. Without an answer, a pod starts only if its
//! namespace has no policy: the agent leaves the names of those that have some in a file. Without any
//! policy there is another file instead, and that is all that ADD and DEL look for. While there is
//! neither, because the machine has just started, no one knows.

mod elements;
mod names;
mod words;

use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_to, getsockopt, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;
use podwire_kernel::IpFamily;
use podwire_kernel::conntrack::Conntrack;

pub use self::names::{ALLOWED, OPEN, TABLE};
pub use self::words::{Answer, Attachment, News, PodName};
use crate::error::Error;
use crate::files;
use crate::policy::elements::Tables;
use crate::streams;

/// Where the agent's files are, if the configuration does not say (`runDir`).
pub const RUN_DIR: &str = "/run/podwire";
/// The directory with what decides without an agent, in its run directory.
pub const DIRECTORY: &str = "policy";
/// The socket on which the agent is told of attachments, in its run directory.
pub const SOCKET: &str = "pods.sock";
/// The file with the names of the namespaces that have policies, one a line, in the agent's run
/// directory.
pub const NAMESPACES: &str = "policy/namespaces";
/// The line in that file by which all namespaces have some, also those that come later.
pub const EVERY_NAMESPACE: &str = "*";
/// The file that the agent leaves in its run directory while there is no policy.
pub const NONE: &str = "policy/none";
/// The interface that is the pod's in the cluster's network; others are of networks of which
/// policies do not speak.
pub const POD_IFNAME: &str = "eth0";

/// How long an agent that is being replaced is waited for.
const RESTART: Duration = Duration::from_secs(2);
/// How long an agent may take to answer. It waits 2 s itself for a Pod that it does not know.
const ANSWER: Duration = Duration::from_secs(3);
/// More than the longest answer, in bytes.
const LONGEST_ANSWER: usize = 16 << 10;
/// The pause between tries to reach it.
const PAUSE: Duration = Duration::from_millis(20);
/// How long it may be away before STATUS says so: a node that is not ready loses its endpoints, and
/// no update of the agent is worth that.
const SILENCE: Duration = Duration::from_secs(30);
/// What is said of a namespace of which no one has said that it has no policy.
const MAY_HAVE: &str = "may have NetworkPolicies";
/// Since when it is away, as STATUS has found; in the agent's run directory.
const SILENT_SINCE: &str = "policy/silent";

/// What the configuration says of the agent.
#[derive(Debug, Clone, Copy)]
pub struct Agent<'a> {
    /// Where its files are.
    pub run_dir: &'a Path,
    /// It enforces policies (`networkPolicy`), so that a machine where it has not said anything since
    /// the start may have some.
    pub enforces: bool,
}

impl Default for Agent<'_> {
    fn default() -> Self {
        Self {
            run_dir: Path::new(RUN_DIR),
            enforces: false,
        }
    }
}

/// True if there may be any policy in the cluster. The agent writes the file of namespaces before it
/// makes the table and removes it after the table: this costs a look or two at memory, while closing a
/// socket of nftables waits for what others have deleted there (`nft_rcv_nl_event`,
/// net/netfilter/nf_tables_api.c).
pub fn is_enforced(agent: Agent<'_>) -> bool {
    let file = fs::symlink_metadata(agent.run_dir.join(NAMESPACES));
    let may_have_names = !file.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    // That there is no policy is believed of the agent alone.
    may_have_names || agent.enforces && !files::has_own(&agent.run_dir.join(NONE))
}

/// True if there is any policy, or may be one later: connections that go on until then are judged by it.
pub fn may_come(agent: Agent<'_>) -> bool {
    agent.enforces || is_enforced(agent)
}

/// Brings an attachment about in the rules of policies, if there are any. Its link is there, and its
/// container does not run yet.
pub fn admit(agent: Agent<'_>, attachment: &Attachment) -> Result<(), Error> {
    if !is_enforced(agent) {
        return Ok(());
    }
    let run_dir = agent.run_dir;
    let name = attachment.comment();
    let told = tell_until_heard(run_dir, attachment);
    // An agent that answers knows more than its file, which it may not have been able to write.
    let answered = told.is_ok();
    let lacks = match told {
        Ok(Answer::Done) => return Ok(()),
        Ok(Answer::Unknown) => format!("podwire-agent does not know the pod {name} yet"),
        Ok(Answer::Failed(reason)) => format!("podwire-agent cannot enforce policies: {reason}"),
        Err(_) => "podwire-agent does not answer".to_owned(),
    };
    let pod = attachment.pod.as_ref().filter(|_| answered);
    let in_doubt = pod.map(|pod| (pod.namespace.as_str(), MAY_HAVE));
    if let Some((namespace, concern)) = with_policies(run_dir, attachment).or(in_doubt) {
        return Err(Error::Unprotected {
            lacks,
            namespace: namespace.to_owned(),
            concern,
        });
    }
    streams::log(format_args!(
        "{lacks}; no NetworkPolicy is about {name}, so it is opened without it"
    ));
    match Tables::open(&families(attachment))? {
        Some(mut tables) => tables.open_addresses(&attachment.addresses, &name),
        None => Ok(()),
    }
}

/// Takes an attachment out of the rules of policies, and out of the connections that they judge. Its
/// link is gone, and no one has its addresses yet.
pub fn discharge(agent: Agent<'_>, attachment: &Attachment) -> Result<(), Error> {
    let discharged = discharge_from_rules(agent, attachment);
    if may_come(agent) {
        forget_connections(&attachment.addresses);
    }
    discharged
}

/// Makes the kernel forget the connections of addresses that no one has. Policies judge a packet as
/// one of its connection, also what is sent on and on to a pod that is gone: its next owner would be
/// taken for the one who began, and what policies say of the beginning would not be asked.
pub fn forget_connections(addresses: &[IpAddr]) {
    if addresses.is_empty() {
        return;
    }
    let addresses = addresses.iter().copied().collect();
    let forgotten =
        Conntrack::open().and_then(|mut conntrack| conntrack.delete_addresses(&addresses, None));
    if let Err(error) = forgotten {
        streams::log(format_args!(
            "{error}; who sends to a pod that is gone may reach the next owner of its address"
        ));
    }
}

fn discharge_from_rules(agent: Agent<'_>, attachment: &Attachment) -> Result<(), Error> {
    if attachment.addresses.is_empty() || !is_enforced(agent) {
        return Ok(());
    }
    let told = connect(agent.run_dir).and_then(|stream| tell(stream, attachment, News::Went));
    match told {
        Ok(Answer::Done) => Ok(()),
        _ => match Tables::open(&families(attachment))? {
            Some(mut tables) => tables.forget(&attachment.addresses),
            None => Ok(()),
        },
    }
}

/// Fails if pods of namespaces with policies have not been able to start for a while.
pub fn status(agent: Agent<'_>) -> Result<(), Error> {
    let run_dir = agent.run_dir;
    let since = run_dir.join(SILENT_SINCE);
    let Err(error) = (match is_enforced(agent) {
        true => connect(run_dir).map(drop),
        false => Ok(()),
    }) else {
        // It is there only after a failure.
        let _ = fs::remove_file(since);
        return Ok(());
    };
    let found = fs::symlink_metadata(&since).and_then(|file| file.modified());
    let Ok(found) = found else {
        // Without the file STATUS goes on saying that all is well, and ADD what is wrong. On a machine
        // that has just started there is no directory for it yet.
        let _ = since.parent().map(files::create_own_directory);
        let _ = files::create(&since);
        return Ok(());
    };
    if found.elapsed().unwrap_or_default() < SILENCE {
        return Ok(());
    }
    let socket = run_dir.join(SOCKET);
    Err(Error::NotAvailable {
        reason: format!(
            "podwire-agent does not answer on {}: {error}; pods of namespaces with \
             NetworkPolicies do not start until it runs",
            socket.display()
        ),
    })
}

fn families(attachment: &Attachment) -> Vec<IpFamily> {
    let has = |family: &IpFamily| {
        let mut addresses = attachment.addresses.iter();
        addresses.any(|address| IpFamily::of(*address) == *family)
    };
    IpFamily::ALL.into_iter().filter(has).collect()
}

/// Tells the agent of an attachment that came. One that may be about to start is waited for where the
/// pod could not start without it.
fn tell_until_heard(run_dir: &Path, attachment: &Attachment) -> io::Result<Answer> {
    let deadline = Instant::now() + RESTART;
    let needs_it = with_policies(run_dir, attachment).is_some();
    loop {
        let told = connect(run_dir).and_then(|stream| tell(stream, attachment, News::Came));
        match told {
            // One that is killed while it is asked may be back soon, too.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                if !needs_it || Instant::now() >= deadline {
                    return Err(error);
                }
                std::thread::sleep(PAUSE);
            }
            told => return told,
        }
    }
}

/// Connects to the agent. One that stands still, with more than it takes waiting, is given up. A
/// socket on which another user listens is not the agent's.
fn connect(run_dir: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let limit = TimeVal::new(ANSWER.as_secs().cast_signed(), 0);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    connect_to(socket.as_raw_fd(), &UnixAddr::new(&run_dir.join(SOCKET))?)?;
    let listener = getsockopt(&socket, sockopt::PeerCredentials)?.uid();
    if !files::is_trusted(listener) {
        let text = format!("user {listener} listens there, who is not root");
        return Err(io::Error::other(text));
    }
    Ok(socket.into())
}

/// Says a line and reads the answer.
fn tell(mut stream: UnixStream, attachment: &Attachment, news: News) -> io::Result<Answer> {
    let deadline = Instant::now() + ANSWER;
    stream.write_all(attachment.print(news).as_bytes())?;
    let line = hear(&mut stream, deadline)?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Answer::parse(&line))
}

/// All that comes until the other end closes, which must be before the deadline.
fn hear(stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut heard = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(heard),
            Ok(length) => heard.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if heard.len() > LONGEST_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// The namespace of the attachment's pod and which policies it has or may have, in words; none if the
/// agent has written that it has none.
fn with_policies<'a>(
    run_dir: &Path,
    attachment: &'a Attachment,
) -> Option<(&'a str, &'static str)> {
    let namespace = attachment.pod.as_ref()?.namespace.as_str();
    let listed = files::read_own(&run_dir.join(NAMESPACES), u64::MAX).ok();
    let listed = listed.flatten();
    let concern = match listed.and_then(|names| String::from_utf8(names).ok()) {
        Some(names) if names.lines().any(|name| name == namespace) => "has NetworkPolicies",
        Some(names) if names.lines().any(|name| name == EVERY_NAMESPACE) => {
            "can be selected by ClusterNetworkPolicies"
        }
        Some(_) => return None,
        // The agent has not listed the cluster since the machine started.
        None => MAY_HAVE,
    };
    Some((namespace, concern))
}

#[cfg(test)]
mod tests;
