//! How often something was looked at, for tests that count: time says nothing on a busy machine.

#[cfg(test)]
thread_local! {
    static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// One more.
pub fn look() {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
}

/// How often this thread looked at something meanwhile.
#[cfg(test)]
pub fn looks_of(meanwhile: impl FnOnce()) -> usize {
    let before = LOOKS.get();
    meanwhile();
    LOOKS.get() - before
}
