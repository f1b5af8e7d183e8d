//! The same properties against the real kernel, in a network namespace of its own.

use proptest::test_runner::{Config, TestRunner};

use super::generate;
use crate::nft::{Batch, Family, NftSocket, Table, diff};

fn observed(socket: &mut NftSocket) -> Option<Table> {
    socket.observe(Family::Ip, "t").unwrap()
}

fn commit(socket: &mut NftSocket, batch: &mut Batch) {
    if let Err(error) = socket.commit(batch) {
        panic!("{error}");
    }
}

fn check(socket: &mut NftSocket, before: &Table, after: &Table) {
    let mut batch = Batch::new();
    batch.table(Family::Ip, "t").destroy();
    commit(socket, &mut batch);
    assert_eq!(observed(socket), None);
    for wanted in [before, after] {
        let found = observed(socket);
        commit(socket, &mut diff(found.as_ref(), wanted));
        let found = observed(socket).unwrap();
        let batches = socket.batches();
        commit(socket, &mut diff(Some(&found), wanted));
        assert_eq!(
            socket.batches(),
            batches,
            "what is right is not written again"
        );
        assert_eq!(found.normalised(), wanted.clone().normalised());
    }
}

#[test]
fn what_is_committed_is_what_is_read_back() {
    let thread = std::thread::spawn(|| {
        crate::netns::unshare_thread().expect("a network namespace; run the tests as root");
        let mut socket = NftSocket::open().unwrap();
        let socket = std::cell::RefCell::new(&mut socket);
        let mut runner = TestRunner::new(Config {
            cases: 60,
            ..Config::default()
        });
        runner
            .run(&generate::pair(), |(before, after)| {
                check(&mut socket.borrow_mut(), &before, &after);
                Ok(())
            })
            .unwrap();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
