//! The network namespace of a container, which is never that of the plugin.

use podwire_kernel::netns::Netns;

use crate::environment::Call;
use crate::error::Error;

/// Opens the namespace of the container, which must not be that of the plugin.
pub fn open(call: &Call) -> Result<Netns, Error> {
    let path = call.sandbox();
    let opened = Netns::open(call.netns.clone().unwrap_or_default());
    let netns = opened.map_err(|source| Error::Netns { path, source })?;
    if is_own(call, &netns)? {
        return Err(Error::OwnNetns);
    }
    Ok(netns)
}

/// Opens the namespace of the container for DEL; `None` if it is gone, or something else has its
/// place: a directory, a socket, a pipe that would wait for a writer.
pub fn open_if_there(call: &Call) -> Result<Option<Netns>, Error> {
    let Some(path) = &call.netns else {
        return Ok(None);
    };
    // To stat(2) a namespace is a regular file, so a plain file is found out on entering it.
    if !std::fs::metadata(path).is_ok_and(|found| found.is_file()) {
        return Ok(None);
    }
    let Ok(netns) = Netns::open(path) else {
        return Ok(None);
    };
    if is_own(call, &netns)? {
        return Err(Error::OwnNetns);
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
