//! Which names an interface can have.

/// The longest interface name in bytes (`IFNAMSIZ` - 1, linux/if.h).
pub const NAME_MAX: usize = 15;

/// The rule for interface names that `name` breaks, if any; a clause such as "interface name is
/// empty".
///
/// The kernel's rules (`dev_valid_name`, net/core/dev.c), and two more: no `%`, because the kernel
/// would take `net%d` for a pattern and choose another name (`__dev_alloc_name`), and no whitespace
/// of Unicode, as the CNI library has it.
pub fn broken_name_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("interface name is empty")
    } else if name.len() > NAME_MAX {
        Some("interface name is too long: it should be less than 16 characters")
    } else if name == "." || name == ".." {
        Some("interface name is . or ..")
    } else if name.contains(['/', ':', '\0']) || has_space(name) {
        Some("interface name contains / or : or whitespace characters")
    } else if name.contains('%') {
        Some("interface name contains %, which the kernel would replace by a number")
    } else {
        None
    }
}

/// The kernel looks at bytes, and takes 0xa0 for a space (`_ctype`, lib/ctype.c), which is also a
/// part of some letters.
fn has_space(name: &str) -> bool {
    name.contains(char::is_whitespace) || name.bytes().any(|byte| byte == 0xa0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in ["e", "eth0", "eth0.12", "fifteen-bytes-x", "...", "\u{fc}"] {
            assert_eq!(broken_name_rule(name), None, "{name}");
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
            "a\u{e0}",
            "a\0",
            "sixteen-bytes-xy",
            "net%d",
            "100%",
        ];
        for name in bad {
            assert!(broken_name_rule(name).is_some(), "{name}");
        }
    }
}
