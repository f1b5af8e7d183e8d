//! The network namespace of a container, which is never that of the plugin.

use podwire_kernel::Cause;
use podwire_kernel::netns::Netns;

use crate::environment::Call;
use crate::error::Error;
use crate::streams;

/// Opens the namespace of the container, which must not be that of the plugin.
pub fn open(call: &Call) -> Result<Netns, Error> {
    let netns = open_any(call)?;
    if is_own(call, &netns)? {
        return Err(Error::OwnNetns);
    }
    Ok(netns)
}

/// Opens the namespace of the container, were it that of the plugin.
pub fn open_any(call: &Call) -> Result<Netns, Error> {
    let path = call.netns.clone().unwrap_or_default();
    let opened = match std::fs::metadata(&path) {
        // Opening it may have an effect, or wait: a pipe waits for its other end.
        Ok(found) if !found.is_file() => {
            let cause = Cause::Unsuitable("it is not a network namespace");
            Err(cause.during("open network namespace", path.display()))
        }
        _ => Netns::open(path),
    };
    opened.map_err(|error| Error::Netns {
        path: call.sandbox(),
        source: error.cause,
    })
}

/// Opens the namespace of the container for DEL. `None` if it is gone, which is also so if its path leads
/// to something else now: a directory, a socket, a pipe, or the namespace of the plugin (the path can
/// have the number of a process in it, which another process has got since).
pub fn open_if_there(call: &Call) -> Result<Option<Netns>, Error> {
    if call.netns.is_none() {
        return Ok(None);
    }
    // To stat(2) a namespace is a regular file, so a plain file is found out on entering it.
    let Ok(netns) = open_any(call) else {
        return Ok(None);
    };
    if is_own(call, &netns)? {
        streams::log(format_args!(
            "CNI_NETNS ({}) leads to the network namespace of the node, so that of the container is \
             gone; no interface is deleted there",
            call.sandbox()
        ));
        return Ok(None);
    }
    Ok(Some(netns))
}

/// Whether `netns` is the namespace of the plugin, where it must not be.
pub fn is_own(call: &Call, netns: &Netns) -> Result<bool, Error> {
    if call.netns_override {
        return Ok(false);
    }
    let failed = || Error::kernel("network namespace of the plugin");
    let own = Netns::current().map_err(failed())?;
    let same = own.inode().and_then(|own| Ok(own == netns.inode()?));
    same.map_err(failed())
}
