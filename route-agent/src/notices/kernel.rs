//! Passes the kernel's notifications on to the loop.

use std::sync::mpsc::Sender;
use std::time::Duration;

use podwire_kernel::monitor::Monitor;

use crate::feature::KernelEvent;
use crate::input::Input;
use crate::warnings::Warning;

/// The pause before kernel notifications are asked for again.
const MONITOR_PAUSE: Duration = Duration::from_secs(1);

/// Begins to listen. Changes that are made through the netlink ports `ports` are left out.
pub fn listen(ports: &[u32]) -> podwire_kernel::Result<Monitor> {
    let monitor = Monitor::open()?;
    monitor.ignore(ports)?;
    Ok(monitor)
}

/// Passes kernel notifications on to the loop. If listening breaks it begins again, and then the
/// loop looks at everything again.
pub async fn follow(mut monitor: Monitor, ports: Vec<u32>, inputs: Sender<Input>) {
    loop {
        while let Some(event) = monitor.next().await {
            if inputs.send(Input::Kernel(event)).is_err() {
                return;
            }
        }
        monitor = loop {
            tokio::time::sleep(MONITOR_PAUSE).await;
            match listen(&ports) {
                Ok(monitor) => break monitor,
                Err(error) => {
                    let text = format!("{error}; repairs wait until that works");
                    let warning = Warning::new("kernel notifications", text);
                    if inputs
                        .send(Input::Warnings("monitor", vec![warning]))
                        .is_err()
                    {
                        return;
                    }
                }
            }
        };
        let none = Input::Warnings("monitor", Vec::new());
        if inputs.send(none).is_err() || inputs.send(Input::Kernel(KernelEvent::Lost)).is_err() {
            return;
        }
    }
}
