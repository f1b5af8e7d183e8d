//! What the runtime says in the environment: the verb and the attachment it is about.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use podwire_kernel::link::{NAME_MAX, broken_name_rule};

/// What the runtime asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container to the network.
    Add,
    /// Undo an attachment.
    Del,
    /// Say whether an attachment is as it was made.
    Check,
    /// Say whether attachments can be made.
    Status,
    /// Remove every attachment that the runtime does not list.
    Gc,
    /// Say which versions are spoken.
    Version,
}

/// One call of the plugin, as the environment describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What to do.
    pub verb: Verb,
    /// `CNI_CONTAINERID`; empty for verbs that are about no container.
    pub container_id: String,
    /// `CNI_NETNS`; DEL may come without it.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`, the interface inside the container; empty for verbs that are about none.
    pub ifname: String,
    /// `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`.
    pub arguments: String,
    /// `CNI_PATH`: directories in which other plugins lie, separated by colons.
    pub path: OsString,
    /// `CNI_NETNS_OVERRIDE`: the container's network namespace may be the plugin's own.
    pub netns_override: bool,
}

/// The longest container ID, in bytes. Those of runtimes have 64; what is kept of an attachment is
/// found again by this ID, and nothing on the way may have to cut it off.
pub const LONGEST_ID: usize = 1024;

/// Below `/proc/sys/net/ipv4/conf` these stand for interfaces in general, so the kernel gives none
/// such a name (`sysctl_dev_name_is_allowed`, include/linux/inetdevice.h).
const NAMES_OF_SETTINGS: [&str; 2] = ["all", "default"];

/// An environment that describes no call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// The verb is none of the known ones.
    #[error("unknown CNI_COMMAND: {command}")]
    UnknownVerb {
        /// The value of `CNI_COMMAND`.
        command: String,
    },
    /// The verb needs variables that are not set.
    #[error("required env variables [{}] missing", names.join(","))]
    Missing {
        /// The variables that are not set.
        names: Vec<&'static str>,
    },
    /// `CNI_CONTAINERID` is no container ID.
    #[error(
        "invalid characters in containerID: CNI_CONTAINERID is {id:?}, but an ID starts with a \
         letter or digit and goes on with letters, digits, \"_\", \".\" and \"-\""
    )]
    ContainerId {
        /// The value.
        id: String,
    },
    /// `CNI_CONTAINERID` is longer than any that a later DEL has to find again.
    #[error(
        "containerID is too long: CNI_CONTAINERID has {length} characters, but an ID has at most \
         {LONGEST_ID}"
    )]
    LongContainerId {
        /// How many it has.
        length: usize,
    },
    /// `CNI_IFNAME` cannot be the name of an interface.
    #[error("CNI_IFNAME is {name:?}, but {rule}")]
    Ifname {
        /// The value.
        name: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
}

impl Call {
    /// Reads the call from environment variables; `None` if `CNI_COMMAND` is not set.
    ///
    /// The values are not checked yet: the configuration comes first ([`Call::check`]).
    pub fn read(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, EnvironmentError> {
        let value = |name| variable(name).filter(|value| !value.is_empty());
        let text = |name| {
            let value: Option<OsString> = value(name);
            value.map_or_else(String::new, |value| value.to_string_lossy().into_owned())
        };
        let command = text("CNI_COMMAND");
        if command.is_empty() {
            return Ok(None);
        }
        let Some(verb) = Verb::parse(&command) else {
            return Err(EnvironmentError::UnknownVerb { command });
        };
        let needed = verb.needs().iter().copied();
        let names: Vec<_> = needed.filter(|name| value(name).is_none()).collect();
        if !names.is_empty() {
            return Err(EnvironmentError::Missing { names });
        }
        let netns_override = text("CNI_NETNS_OVERRIDE");
        Ok(Some(Self {
            verb,
            container_id: text("CNI_CONTAINERID"),
            netns: value("CNI_NETNS").map(PathBuf::from),
            ifname: text("CNI_IFNAME"),
            arguments: text("CNI_ARGS"),
            path: value("CNI_PATH").unwrap_or_default(),
            netns_override: netns_override == "1" || netns_override.eq_ignore_ascii_case("true"),
        }))
    }

    /// Checks the container ID and the interface name, if the verb needs them. What only an ADD
    /// could do wrong is refused there alone: a DEL of it has nothing to take away, or takes away
    /// what was made before it was refused.
    pub fn check(&self) -> Result<(), EnvironmentError> {
        if !matches!(self.verb, Verb::Add | Verb::Del | Verb::Check) {
            return Ok(());
        }
        if !is_identifier(&self.container_id) {
            let id = self.container_id.clone();
            return Err(EnvironmentError::ContainerId { id });
        }
        let length = self.container_id.len();
        if self.verb == Verb::Add && length > LONGEST_ID {
            return Err(EnvironmentError::LongContainerId { length });
        }
        match self.broken_ifname_rule() {
            None => Ok(()),
            Some(rule) => Err(EnvironmentError::Ifname {
                name: self.ifname.clone(),
                rule,
            }),
        }
    }

    /// The rule that `CNI_IFNAME` breaks, if it breaks one that matters to the verb.
    fn broken_ifname_rule(&self) -> Option<&'static str> {
        if self.verb == Verb::Del {
            let name = self.ifname.replace('%', "-");
            // As much of it as fits, and no half letter.
            let start = (0..=NAME_MAX).rev().find_map(|end| name.get(..end));
            return broken_name_rule(start.unwrap_or_default());
        }
        // What is no text was read with the last one in the place of its bytes.
        let is_wrong = |letter: char| letter.is_control() || letter == char::REPLACEMENT_CHARACTER;
        if self.ifname.contains(is_wrong) {
            return Some(
                "control characters would change what a terminal shows, and what is not UTF-8 would \
                 become another name",
            );
        }
        let is_of_settings = NAMES_OF_SETTINGS.contains(&self.ifname.as_str());
        broken_name_rule(&self.ifname).or(is_of_settings.then_some(
            "all and default stand for every interface in the kernel's settings, so none may \
             have that name",
        ))
    }

    /// The path of the container's network namespace as it is told to the runtime again.
    pub fn sandbox(&self) -> String {
        let path = self.netns.as_deref();
        path.map_or_else(String::new, |path| path.display().to_string())
    }

    /// The directories of `CNI_PATH`.
    pub fn search_path(&self) -> impl Iterator<Item = PathBuf> {
        let parts = self.path.as_bytes().split(|byte| *byte == b':');
        parts
            .filter(|part| !part.is_empty())
            .map(|part| PathBuf::from(std::ffi::OsStr::from_bytes(part)))
    }
}

impl Verb {
    fn parse(command: &str) -> Option<Self> {
        match command {
            "ADD" => Some(Self::Add),
            "DEL" => Some(Self::Del),
            "CHECK" => Some(Self::Check),
            "STATUS" => Some(Self::Status),
            "GC" => Some(Self::Gc),
            "VERSION" => Some(Self::Version),
            _ => None,
        }
    }

    /// The variables without which this verb makes no sense. `CNI_PATH` matters only to calls
    /// that look for other plugins, so ADD, CHECK and DEL go without it.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc => &["CNI_PATH"],
            Self::Status | Self::Version => &[],
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        })
    }
}

/// Whether `text` can be a container ID or the name of a network:
/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`. Such a text is also safe as the name of a file.
pub fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    const ADD: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
    ];

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Call>, EnvironmentError> {
        let map: BTreeMap<_, _> = pairs.iter().copied().collect();
        Call::read(|name| map.get(name).map(OsString::from))
    }

    fn error(pairs: &[(&str, &str)]) -> String {
        read(pairs).unwrap_err().to_string()
    }

    fn check(id: &str, ifname: &str) -> Result<(), EnvironmentError> {
        let mut call = read(&ADD).unwrap().unwrap();
        call.container_id = id.to_owned();
        call.ifname = ifname.to_owned();
        call.check()
    }

    #[test]
    fn a_complete_environment_is_a_call() {
        let call = read(&ADD).unwrap().unwrap();
        assert_eq!(call.verb, Verb::Add);
        assert_eq!(call.container_id, "c1");
        assert_eq!(call.sandbox(), "/run/netns/x");
        call.check().unwrap();
    }

    #[test]
    fn without_a_command_there_is_no_call() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("CNI_COMMAND", "")]), Ok(None));
    }

    #[test]
    fn missing_variables_are_all_named() {
        assert_eq!(
            error(&[("CNI_COMMAND", "ADD")]),
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing"
        );
        assert_eq!(
            error(&[("CNI_COMMAND", "CHECK"), ("CNI_CONTAINERID", "c")]),
            "required env variables [CNI_NETNS,CNI_IFNAME] missing"
        );
        assert_eq!(
            error(&[("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "")]),
            "required env variables [CNI_CONTAINERID,CNI_IFNAME] missing"
        );
        let text = "required env variables [CNI_PATH] missing";
        assert_eq!(error(&[("CNI_COMMAND", "GC")]), text);
        assert!(read(&[("CNI_COMMAND", "STATUS")]).is_ok());
    }

    #[test]
    fn an_unknown_command_is_named() {
        let text = "unknown CNI_COMMAND: FOO";
        assert_eq!(error(&[("CNI_COMMAND", "FOO")]), text);
        assert_eq!(error(&[("CNI_COMMAND", "add")]), "unknown CNI_COMMAND: add");
    }

    #[test]
    fn container_ids_that_could_leave_a_directory_are_refused() {
        for id in ["a", "0", "a_b.c-d", &"f".repeat(LONGEST_ID)] {
            check(id, "eth0").unwrap();
        }
        for id in ["", ".", "..", "a/b", "-a", "_a", "a b", "a\u{e9}", "a\n"] {
            check(id, "eth0").unwrap_err();
        }
    }

    #[test]
    fn what_is_too_long_is_refused_and_deleted() {
        let long = "f".repeat(LONGEST_ID + 1);
        let text = check(&long, "eth0").unwrap_err().to_string();
        assert!(text.contains("has 1025 characters"), "{text}");
        let ifname = "x".repeat(300);
        check("a", &ifname).unwrap_err();
        for (id, ifname) in [(&*long, "eth0"), ("a", &*ifname), ("a", "sixteen-bytes-xé")] {
            let mut call = read(&ADD).unwrap().unwrap();
            (call.container_id, call.ifname) = (id.to_owned(), ifname.to_owned());
            call.verb = Verb::Del;
            call.check().unwrap();
        }
    }

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in ["e", "eth0", "eth0.12", "fifteen-bytes-x"] {
            check("a", name).unwrap();
        }
        let bad = [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "a\u{a0}b",
            "sixteen-bytes-xy",
            "net%d",
            "all",
            "default",
        ];
        for name in bad {
            check("a", name).unwrap_err();
        }
    }

    #[test]
    fn a_name_that_the_kernel_would_complete_or_refuse_is_refused_but_deleted() {
        for name in ["net%d", "%d", "a%", "%s", "all", "default"] {
            check("a", name).unwrap_err();
            let mut call = read(&ADD).unwrap().unwrap();
            call.ifname = name.to_owned();
            call.verb = Verb::Del;
            call.check().unwrap();
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_without_a_panic() {
        let call = Call::read(|name| {
            Some(match name {
                "CNI_COMMAND" => OsString::from("ADD"),
                _ => OsString::from_vec(vec![0xff, 0xfe]),
            })
        });
        call.unwrap().unwrap().check().unwrap_err();
    }

    #[test]
    fn a_name_that_is_no_text_is_refused_but_deleted() {
        for (verb, refused) in [("ADD", true), ("DEL", false)] {
            let call = Call::read(|name| {
                Some(match name {
                    "CNI_COMMAND" => OsString::from(verb),
                    "CNI_IFNAME" => OsString::from_vec(b"eth\xff".to_vec()),
                    _ => OsString::from("c1"),
                })
            });
            let checked = call.unwrap().unwrap().check();
            assert_eq!(checked.is_err(), refused, "{checked:?}");
        }
    }

    #[test]
    fn the_override_is_true_or_1() {
        for (text, expected) in [("1", true), ("TRUE", true), ("true", true), ("0", false)] {
            let mut pairs = ADD.to_vec();
            pairs.push(("CNI_NETNS_OVERRIDE", text));
            assert_eq!(read(&pairs).unwrap().unwrap().netns_override, expected);
        }
    }

    #[test]
    fn empty_directories_of_the_path_are_left_out() {
        let mut pairs = ADD.to_vec();
        pairs.push(("CNI_PATH", ":/opt/cni/bin::/x:"));
        let call = read(&pairs).unwrap().unwrap();
        let path: Vec<_> = call.search_path().collect();
        assert_eq!(path, [PathBuf::from("/opt/cni/bin"), PathBuf::from("/x")]);
    }
}
