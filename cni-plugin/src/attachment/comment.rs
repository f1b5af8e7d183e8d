//! The comments of nftables elements: the pod for people, and whose they are, for who takes them away.

use crate::hash::fnv1a;

/// How much of a container ID and of the name of a pod a comment has, in bytes and characters. A
/// comment of nftables has at most 128 bytes (`NFTNL_UDATA_COMMENT_MAXLEN`, libnftnl).
const COMMENT_ID: usize = 32;
const COMMENT_POD: usize = 70;

/// How much of a longer ID there is, in bytes; a hash stands for the whole of it.
const COMMENT_ID_START: usize = 16;

/// What the elements of an owner ([`owner`]) have as their comment.
pub(super) fn comment(pod: Option<&(String, String)>, owner: &str) -> String {
    let Some((namespace, name)) = pod else {
        return owner.to_owned();
    };
    let pod = format!("{namespace}/{name}");
    let pod: String = pod.chars().take(COMMENT_POD).collect();
    format!("{pod} {owner}")
}

/// With what the comments of an attachment's elements end.
pub fn owner(container_id: &str, ifname: &str) -> String {
    match container_id.get(..COMMENT_ID_START) {
        Some(start) if container_id.len() > COMMENT_ID => {
            // Longer than any ID that is there as a whole, so it can be taken for none.
            let hash = fnv1a(container_id.bytes());
            format!("{start}-{hash:016x}/{ifname}")
        }
        _ => format!("{container_id}/{ifname}"),
    }
}

/// With what they ended in an earlier version; containers with a long start in common shared it.
pub fn former_owner(container_id: &str, ifname: &str) -> String {
    let id = container_id.get(..COMMENT_ID).unwrap_or(container_id);
    format!("{id}/{ifname}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_whose_long_ids_start_alike_have_different_comments() {
        let ids = [32, 33, 64].map(|length| "f".repeat(length));
        let owners = ids.each_ref().map(|id| owner(id, "eth0"));
        assert_eq!(owners[0], format!("{}/eth0", ids[0]));
        assert!(owners[1] != owners[2] && owners[2].starts_with(&ids[0][..16]));
        let all = [1, 2].map(|number| former_owner(&ids[number], "eth0"));
        assert_eq!(all, [owners[0].clone(), owners[0].clone()]);
        // What stands for an ID is none that could be there as a whole.
        assert!(owners[2].len() > owners[0].len());
    }
}
