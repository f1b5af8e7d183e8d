//! A thread that makes the kernel forget connections, so that the reconcile loop never waits for a
//! large table.

use std::sync::mpsc::{Receiver, Sender, channel};

use podwire_kernel::conntrack::Conntrack;

/// Starts the thread `name` in the network namespace of the calling thread; it ends when no one can
/// give it orders any more. `what` says in an error of which connections it is.
pub fn start<Order: Send + 'static>(
    name: &str,
    what: &str,
    run: impl FnOnce(Conntrack, &Receiver<Order>) + Send + 'static,
) -> podwire_kernel::Result<Sender<Order>> {
    let conntrack = Conntrack::open()?;
    let (sender, orders) = channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread
        .spawn(move || run(conntrack, &orders))
        .map_err(|error| {
            let cause = podwire_kernel::Cause::from(error);
            podwire_kernel::Error::new("start the thread for", what, cause)
        })?;
    Ok(sender)
}
