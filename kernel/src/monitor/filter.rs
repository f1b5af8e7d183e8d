//! A socket filter that drops the notifications about one's own changes.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::Cause;

/// Where the port of the writer stands in a message (`nlmsg_pid` of `struct nlmsghdr`).
const PORT_OFFSET: u32 = 12;

/// A jump of a classic BPF program covers at most 255 instructions.
const PORTS_MAX: usize = 250;

/// Makes the kernel drop notifications that were caused through sockets with these ports. All
/// messages of one datagram come from one writer, so the first header decides.
#[expect(unsafe_code, reason = "nix has no socket filters")]
pub(super) fn leave_out(socket: &OwnedFd, ports: &[u32]) -> Result<(), Cause> {
    if ports.len() > PORTS_MAX {
        return Err(Cause::Malformed(format!(
            "{} ports, at most {PORTS_MAX} fit",
            ports.len()
        )));
    }
    let mut program = program(ports);
    let filter = libc::sock_fprog {
        // At most PORTS_MAX + 3 instructions.
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the descriptor is open; the kernel copies `filter.len` instructions, all of which
    // live in `program` until after the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error().into())
    }
}

/// Load the port, compare it with each, keep the whole message or nothing of it.
fn program(ports: &[u32]) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, k: u32, jt: usize| libc::sock_filter {
        code: code as u16,
        // Never above PORTS_MAX + 1.
        jt: jt as u8,
        jf: 0,
        k,
    };
    let mut program = vec![instruction(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        PORT_OFFSET,
        0,
    )];
    for (index, port) in ports.iter().enumerate() {
        // A word is loaded as big endian, while the port is written in the order of the machine.
        let port = u32::from_be_bytes(port.to_ne_bytes());
        let to_drop = ports.len() - index;
        program.push(instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            port,
            to_drop,
        ));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, u32::MAX, 0));
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0));
    program
}
