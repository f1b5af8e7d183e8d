//! A network namespace for one test.

use std::io::Write;
use std::process::{Command, Stdio};

use podwire_kernel::nft::{Family, NftSocket, Table, diff};

/// Runs `test` on a thread of its own in a new network namespace, and fails if that is not allowed.
pub fn in_netns(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        podwire_kernel::netns::unshare_thread()
            .expect("a network namespace; these tests must run as root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Brings the kernel from what it has to `table`, and checks that it then has it.
pub fn install(socket: &mut NftSocket, table: &Table) {
    let observed = socket.observe(table.family, &table.name).unwrap();
    let mut batch = diff(observed.as_ref(), table);
    socket
        .commit(&mut batch)
        .unwrap_or_else(|error| panic!("{error}"));
    let observed = observe(socket, table.family, &table.name);
    assert_eq!(observed.clone().normalised(), table.clone().normalised());
    assert!(diff(Some(&observed), table).is_empty());
}

pub fn observe(socket: &mut NftSocket, family: Family, name: &str) -> Table {
    socket.observe(family, name).unwrap().expect("the table")
}

/// Runs `nft` on the namespace of this thread and returns what it prints.
pub fn nft(arguments: &[&str], input: &str) -> String {
    try_nft(arguments, input)
        .unwrap_or_else(|errors| panic!("nft {arguments:?} fails:\n{errors}\n{input}"))
}

/// As [`nft`], and what `nft` complains of if it fails.
pub fn try_nft(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program nft, from the package nftables");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Says so, past what is held back for tests that pass, where this kernel cannot run a test.
pub fn not_run(what: &str, reason: &str) {
    let reason = reason.lines().next().unwrap_or_default();
    let _ = writeln!(std::io::stderr(), "\nnot run: {what}: {reason}");
}

/// What `nft list ruleset` prints, without counters.
pub fn list() -> String {
    nft(&["--stateless", "list", "ruleset"], "")
}

/// Checks that `nft` prints the tables as the file `golden/NAME.nft` says. With `UPDATE_GOLDEN=1` in
/// the environment the file is written instead.
pub fn check_printing(tables: &[Table], name: &str) -> String {
    let mut socket = NftSocket::open().unwrap();
    for table in tables {
        install(&mut socket, table);
    }
    let listed = list();
    let file = format!("{}/tests/nft/golden/{name}.nft", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &listed).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap();
    assert!(
        listed == golden,
        "nft prints:\n{listed}\n{file} says:\n{golden}"
    );
    golden
}

/// As [`check_printing`], and checks that this text loaded again prints the same.
pub fn check_listing(tables: &[Table], name: &str) {
    let golden = check_printing(tables, name);
    nft(&["flush", "ruleset"], "");
    nft(&["-f", "-"], &golden);
    let again = list();
    assert!(
        again == golden,
        "the text loaded again prints:\n{again}\nin place of:\n{golden}"
    );
}
