//! Tables are built here as iptables builds them, and taken apart by the code under test.

use proptest::prelude::*;

use super::*;

/// What a built entry does.
#[derive(Debug, Clone)]
enum Does {
    Jump(&'static str),
    Next,
    Verdict(i32),
    /// A target with data, such as MASQUERADE.
    Masquerade,
}

/// Writes a table with PREROUTING and POSTROUTING and further chains.
struct Builder {
    layout: Layout,
    chains: Vec<(&'static str, Vec<Does>)>,
}

const ACCEPT: i32 = -2;
const RETURN: i32 = -5;

impl Builder {
    fn entry_size(&self, does: &Does) -> usize {
        self.layout.size
            + match does {
                Does::Masquerade => 56,
                _ => 40,
            }
    }

    fn head_size(&self) -> usize {
        self.layout.size + 64
    }

    fn put(&self, bytes: &mut Vec<u8>, length: usize, name: &str, data: &[u8]) {
        let start = bytes.len();
        bytes.resize(start + length, 0);
        let entry = &mut bytes[start..];
        let (target, size) = (self.layout.size, length - self.layout.size);
        let half = |value: usize| u16::try_from(value).unwrap().to_ne_bytes();
        entry[self.layout.target_offset..][..2].copy_from_slice(&half(target));
        entry[self.layout.next_offset..][..2].copy_from_slice(&half(length));
        entry[target..target + 2].copy_from_slice(&half(size));
        entry[target + 2..][..name.len()].copy_from_slice(name.as_bytes());
        entry[target + TARGET_HEAD..][..data.len()].copy_from_slice(data);
    }

    fn build(&self) -> Blob {
        let (mut offset, mut starts, mut ends) = (0, BTreeMap::new(), BTreeMap::new());
        for (place, (name, rules)) in self.chains.iter().enumerate() {
            offset += if place < 2 { 0 } else { self.head_size() };
            starts.insert(*name, offset);
            offset += rules
                .iter()
                .map(|does| self.entry_size(does))
                .sum::<usize>();
            ends.insert(*name, offset);
            offset += self.entry_size(&Does::Next);
        }
        let mut bytes = Vec::new();
        for (place, (name, rules)) in self.chains.iter().enumerate() {
            if place >= 2 {
                self.put(&mut bytes, self.head_size(), "ERROR", name.as_bytes());
            }
            for does in rules {
                let length = self.entry_size(does);
                let verdict = match does {
                    Does::Jump(to) => starts[to] as i32,
                    Does::Next => (bytes.len() + length) as i32,
                    Does::Verdict(verdict) => *verdict,
                    Does::Masquerade => {
                        self.put(&mut bytes, length, "MASQUERADE", &[1, 2, 3]);
                        continue;
                    }
                };
                self.put(&mut bytes, length, "", &verdict.to_ne_bytes());
            }
            let last = if place < 2 { ACCEPT } else { RETURN };
            let length = self.entry_size(&Does::Next);
            self.put(&mut bytes, length, "", &last.to_ne_bytes());
        }
        self.put(&mut bytes, self.head_size(), "ERROR", b"ERROR");
        let at = |map: &BTreeMap<&str, usize>, name| map[name] as u32;
        let (pre, post) = (self.chains[0].0, self.chains[1].0);
        Blob {
            layout: self.layout,
            valid_hooks: 0b10001,
            hook_entry: [at(&starts, pre), 7, 7, 7, at(&starts, post)],
            underflow: [at(&ends, pre), 7, 7, 7, at(&ends, post)],
            bytes,
        }
    }
}

fn builder(layout: Layout) -> Builder {
    use Does::*;
    let chains = vec![
        (
            "PREROUTING",
            vec![Jump("KUBE-SERVICES"), Jump("MINE"), Jump("KUBE-LATE")],
        ),
        ("POSTROUTING", vec![Next, Jump("KUBE-POST"), Masquerade]),
        (
            "KUBE-SERVICES",
            vec![Jump("KUBE-SVC"), Next, Verdict(RETURN)],
        ),
        (
            "MINE",
            vec![Verdict(-1), Jump("KUBE-SVC"), Jump("LAST"), Next],
        ),
        ("KUBE-SVC", vec![Masquerade, Verdict(ACCEPT)]),
        ("KUBE-POST", vec![Masquerade]),
        ("KUBE-LATE", vec![]),
        ("LAST", vec![Verdict(-1)]),
    ];
    Builder { layout, chains }
}

/// Chains as text, one each: `name: what its rules lead to`.
fn shown(blob: &Blob) -> Vec<String> {
    let show = |chain: Chain| {
        let rules: Vec<_> = chain
            .rules
            .iter()
            .map(|rule| rule.leads_to.as_deref().unwrap_or("-"))
            .collect();
        format!("{}: {}", chain.name, rules.join(" "))
    };
    blob.chains().unwrap().into_iter().map(show).collect()
}

#[test]
fn chains_and_their_jumps_are_read() {
    for layout in [V4, V6] {
        let blob = builder(layout).build();
        assert_eq!(
            shown(&blob),
            [
                "PREROUTING: KUBE-SERVICES MINE KUBE-LATE",
                "POSTROUTING: - KUBE-POST -",
                "KUBE-SERVICES: KUBE-SVC - -",
                "MINE: - KUBE-SVC LAST -",
                "KUBE-SVC: - -",
                "KUBE-POST: -",
                "KUBE-LATE: ",
                "LAST: -",
            ]
        );
        assert_eq!(blob.len().unwrap(), 3 + 3 + 3 + 4 + 2 + 1 + 1 + 8 + 6 + 1);
    }
}

#[test]
fn an_edit_takes_out_what_it_names_and_moves_the_rest() {
    for layout in [V4, V6] {
        let blob = builder(layout).build();
        let chains = blob.chains().unwrap();
        let id = |chain: usize, rule: usize| {
            let chain = &chains[chain];
            (chain.name.clone(), chain.rules[rule].id)
        };
        let edit = Edit {
            rules: vec![id(0, 0), id(0, 2), id(1, 1)],
            emptied: vec!["KUBE-SVC".into()],
            deleted: ["KUBE-SERVICES", "KUBE-POST", "KUBE-LATE"]
                .map(String::from)
                .into(),
        };
        let (new, kept) = blob.without(&edit).unwrap();
        use Does::*;
        let expected = Builder {
            layout,
            chains: vec![
                ("PREROUTING", vec![Jump("MINE")]),
                ("POSTROUTING", vec![Next, Masquerade]),
                (
                    "MINE",
                    vec![Verdict(-1), Jump("KUBE-SVC"), Jump("LAST"), Next],
                ),
                ("KUBE-SVC", vec![]),
                ("LAST", vec![Verdict(-1)]),
            ],
        };
        assert_eq!(new, expected.build());
        assert_eq!(kept.len(), new.len().unwrap());
        assert!(kept.is_sorted());
    }
}

#[test]
fn hooks_and_policies_are_read() {
    let mut blob = builder(V4).build();
    let policy = |blob: &Blob, chain: usize| {
        let chain = &blob.chains().unwrap()[chain];
        (chain.hook, chain.drops)
    };
    assert_eq!(
        (policy(&blob, 0), policy(&blob, 1)),
        ((Some(0), false), (Some(4), false))
    );
    let at = blob.underflow[4] as usize + blob.layout.size + TARGET_HEAD;
    blob.bytes[at..at + 4].copy_from_slice(&DROP.to_ne_bytes());
    assert_eq!(policy(&blob, 1), (Some(4), true));
    assert_eq!(policy(&blob, 3), (None, false));
}

#[test]
fn an_empty_edit_changes_nothing() {
    let blob = builder(V4).build();
    let (same, kept) = blob.without(&Edit::default()).unwrap();
    assert_eq!(same, blob);
    assert_eq!(kept.len(), blob.len().unwrap());
}

#[test]
fn policies_and_returns_cannot_be_taken_out() {
    let blob = builder(V4).build();
    let every = |chain: &str| {
        (0..100)
            .map(move |id| (chain.to_owned(), id))
            .collect::<Vec<_>>()
    };
    let edit = Edit {
        rules: [every("PREROUTING"), every("MINE")].concat(),
        emptied: vec!["POSTROUTING".into()],
        deleted: vec!["INPUT".into(), "PREROUTING".into()],
    };
    let (new, _) = blob.without(&edit).unwrap();
    assert_eq!(shown(&new)[..2], ["PREROUTING: ", "POSTROUTING: "]);
    assert!(shown(&new).contains(&"MINE: ".to_owned()));
}

proptest! {
    #[test]
    fn broken_bytes_are_refused_and_never_a_panic(
        change in prop::collection::vec((0usize..8000, any::<u8>()), 1..6),
        cut in 0usize..8000,
    ) {
        let mut blob = builder(V4).build();
        for (at, byte) in change {
            let at = at % blob.bytes.len();
            blob.bytes[at] = byte;
        }
        blob.bytes.truncate(cut.max(1));
        let edit = Edit { deleted: vec!["KUBE-SVC".into()], ..Edit::default() };
        let _ = (blob.chains(), blob.without(&edit));
    }
}
