//! Numbers of the nf_tables netlink interface, as in linux/netfilter/nf_tables.h, nfnetlink.h and,
//! for the user data that only `nft` reads, libnftnl's udata.h and nftables' expression.h.

/// `NFNL_SUBSYS_NFTABLES`, the upper byte of every message type.
pub const SUBSYSTEM: u16 = 10;
pub const BATCH_BEGIN: u16 = 16;
pub const BATCH_END: u16 = 17;

/// Message types (`enum nf_tables_msg_types`).
pub mod msg {
    pub const NEWTABLE: u16 = 0;
    pub const GETTABLE: u16 = 1;
    pub const DELTABLE: u16 = 2;
    pub const NEWCHAIN: u16 = 3;
    pub const GETCHAIN: u16 = 4;
    pub const DELCHAIN: u16 = 5;
    pub const NEWRULE: u16 = 6;
    pub const GETRULE: u16 = 7;
    pub const DELRULE: u16 = 8;
    pub const NEWSET: u16 = 9;
    pub const GETSET: u16 = 10;
    pub const DELSET: u16 = 11;
    pub const NEWSETELEM: u16 = 12;
    pub const GETSETELEM: u16 = 13;
    pub const DELSETELEM: u16 = 14;
    pub const GETGEN: u16 = 16;
    /// The DESTROY family is new in 6.3: as DEL, and content if the object is not there.
    pub const DESTROYTABLE: u16 = 26;
    pub const DESTROYCHAIN: u16 = 27;
    pub const DESTROYSET: u16 = 29;
    pub const DESTROYSETELEM: u16 = 30;
}

pub mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const USERDATA: u16 = 6;
    /// `NFT_TABLE_F_DORMANT`.
    pub const DORMANT: u32 = 1;
}

pub mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
    pub const FLAGS: u16 = 10;
    pub const USERDATA: u16 = 12;
    pub const HOOK_NUM: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;
    pub const HOOK_DEV: u16 = 3;
    pub const HOOK_DEVS: u16 = 4;
    /// `NFT_CHAIN_BASE`, the flag that every chain with a hook has.
    pub const FLAG_BASE: u32 = 1;
}

pub mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const HANDLE: u16 = 3;
    pub const EXPRESSIONS: u16 = 4;
    pub const USERDATA: u16 = 7;
}

pub mod set {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_TYPE: u16 = 4;
    pub const KEY_LEN: u16 = 5;
    pub const DATA_TYPE: u16 = 6;
    pub const DATA_LEN: u16 = 7;
    pub const DESC: u16 = 9;
    pub const ID: u16 = 10;
    pub const TIMEOUT: u16 = 11;
    pub const USERDATA: u16 = 13;
    pub const OBJ_TYPE: u16 = 15;
    pub const EXPR: u16 = 17;
    pub const EXPRESSIONS: u16 = 18;
    pub const DESC_SIZE: u16 = 1;
    pub const DESC_CONCAT: u16 = 2;
    pub const FIELD_LEN: u16 = 1;

    pub const FLAG_ANONYMOUS: u32 = 0x1;
    pub const FLAG_INTERVAL: u32 = 0x4;
    pub const FLAG_MAP: u32 = 0x8;
    pub const FLAG_TIMEOUT: u32 = 0x10;
    pub const FLAG_EVAL: u32 = 0x20;
    pub const FLAG_CONCAT: u32 = 0x80;

    /// `NFT_DATA_VERDICT`.
    pub const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
}

pub mod elem {
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const TIMEOUT: u16 = 4;
    pub const EXPIRATION: u16 = 5;
    pub const USERDATA: u16 = 6;
    pub const EXPR: u16 = 7;
    pub const KEY_END: u16 = 10;
    pub const EXPRESSIONS: u16 = 11;
    pub const LIST_TABLE: u16 = 1;
    pub const LIST_SET: u16 = 2;
    pub const LIST_ELEMENTS: u16 = 3;
    pub const FLAG_INTERVAL_END: u32 = 1;
    pub const FLAG_CATCHALL: u32 = 2;
}

/// `NFTA_LIST_ELEM`, `NFTA_DATA_*`, `NFTA_VERDICT_*`, `NFTA_EXPR_*`.
pub const LIST_ELEM: u16 = 1;
pub const DATA_VALUE: u16 = 1;
pub const DATA_VERDICT: u16 = 2;
pub const VERDICT_CODE: u16 = 1;
pub const VERDICT_CHAIN: u16 = 2;
pub const EXPR_NAME: u16 = 1;
pub const EXPR_DATA: u16 = 2;
/// `NFTA_GEN_ID`.
pub const GEN_ID: u16 = 1;

/// Attributes of the expressions.
pub mod expr {
    pub const IMMEDIATE_DREG: u16 = 1;
    pub const IMMEDIATE_DATA: u16 = 2;
    pub const BITWISE_SREG: u16 = 1;
    pub const BITWISE_DREG: u16 = 2;
    pub const BITWISE_LEN: u16 = 3;
    pub const BITWISE_MASK: u16 = 4;
    pub const BITWISE_XOR: u16 = 5;
    pub const BITWISE_OP: u16 = 6;
    pub const CMP_SREG: u16 = 1;
    pub const CMP_OP: u16 = 2;
    pub const CMP_DATA: u16 = 3;
    pub const RANGE_SREG: u16 = 1;
    pub const RANGE_OP: u16 = 2;
    pub const RANGE_FROM: u16 = 3;
    pub const RANGE_TO: u16 = 4;
    pub const LOOKUP_SET: u16 = 1;
    pub const LOOKUP_SREG: u16 = 2;
    pub const LOOKUP_DREG: u16 = 3;
    pub const LOOKUP_FLAGS: u16 = 5;
    pub const LOOKUP_FLAG_INVERTED: u32 = 1;
    pub const DYNSET_SET: u16 = 1;
    pub const DYNSET_OP: u16 = 3;
    pub const DYNSET_KEY: u16 = 4;
    pub const DYNSET_DATA: u16 = 5;
    pub const DYNSET_TIMEOUT: u16 = 6;
    pub const DYNSET_EXPR: u16 = 7;
    pub const DYNSET_FLAGS: u16 = 9;
    pub const DYNSET_EXPRESSIONS: u16 = 10;
    pub const DYNSET_FLAG_INVERTED: u32 = 1;
    pub const DYNSET_FLAG_EXPR: u32 = 2;
    pub const PAYLOAD_DREG: u16 = 1;
    pub const PAYLOAD_BASE: u16 = 2;
    pub const PAYLOAD_OFFSET: u16 = 3;
    pub const PAYLOAD_LEN: u16 = 4;
    pub const META_DREG: u16 = 1;
    pub const META_KEY: u16 = 2;
    pub const META_SREG: u16 = 3;
    pub const HASH_SREG: u16 = 1;
    pub const HASH_DREG: u16 = 2;
    pub const HASH_LEN: u16 = 3;
    pub const HASH_MODULUS: u16 = 4;
    pub const HASH_SEED: u16 = 5;
    pub const HASH_OFFSET: u16 = 6;
    pub const HASH_TYPE: u16 = 7;
    pub const CT_DREG: u16 = 1;
    pub const CT_KEY: u16 = 2;
    pub const CT_DIRECTION: u16 = 3;
    pub const CT_SREG: u16 = 4;
    pub const LIMIT_RATE: u16 = 1;
    pub const LIMIT_UNIT: u16 = 2;
    pub const LIMIT_BURST: u16 = 3;
    pub const LIMIT_TYPE: u16 = 4;
    pub const LIMIT_FLAGS: u16 = 5;

    pub const CONNLIMIT_COUNT: u16 = 1;
    pub const CONNLIMIT_FLAGS: u16 = 2;
    pub const COUNTER_BYTES: u16 = 1;
    pub const COUNTER_PACKETS: u16 = 2;
    pub const LOG_GROUP: u16 = 1;
    pub const LOG_PREFIX: u16 = 2;
    pub const LOG_SNAPLEN: u16 = 3;
    pub const LOG_QTHRESHOLD: u16 = 4;
    pub const LOG_LEVEL: u16 = 5;
    pub const LOG_FLAGS: u16 = 6;
    pub const REJECT_TYPE: u16 = 1;
    pub const REJECT_CODE: u16 = 2;
    pub const NAT_TYPE: u16 = 1;
    pub const NAT_FAMILY: u16 = 2;
    pub const NAT_ADDR_MIN: u16 = 3;
    pub const NAT_ADDR_MAX: u16 = 4;
    pub const NAT_PROTO_MIN: u16 = 5;
    pub const NAT_PROTO_MAX: u16 = 6;
    pub const NAT_FLAGS: u16 = 7;
    pub const MASQ_FLAGS: u16 = 1;
    pub const MASQ_PROTO_MIN: u16 = 2;
    pub const MASQ_PROTO_MAX: u16 = 3;
    pub const REDIR_PROTO_MIN: u16 = 1;
    pub const REDIR_PROTO_MAX: u16 = 2;
    pub const REDIR_FLAGS: u16 = 3;
    pub const NG_DREG: u16 = 1;
    pub const NG_MODULUS: u16 = 2;
    pub const NG_TYPE: u16 = 3;
    pub const NG_OFFSET: u16 = 4;
    pub const FIB_DREG: u16 = 1;
    pub const FIB_RESULT: u16 = 2;
    pub const FIB_FLAGS: u16 = 3;
}

/// User data: type, length and value, each length one byte, numbers in host byte order.
pub mod udata {
    pub const RULE_COMMENT: u8 = 0;
    pub const ELEM_COMMENT: u8 = 0;
    pub const TABLE_COMMENT: u8 = 0;
    pub const CHAIN_COMMENT: u8 = 0;
    pub const SET_KEY_BYTE_ORDER: u8 = 0;
    pub const SET_DATA_BYTE_ORDER: u8 = 1;
    pub const SET_KEY_TYPEOF: u8 = 3;
    pub const SET_DATA_TYPEOF: u8 = 4;
    pub const SET_DATA_INTERVAL: u8 = 6;
    pub const SET_COMMENT: u8 = 7;
    /// In a typeof: the kind of expression, and what it needs.
    pub const TYPEOF_EXPR: u8 = 0;
    pub const TYPEOF_DATA: u8 = 1;
    pub const EXPR_VERDICT: u32 = 1;
    pub const EXPR_PAYLOAD: u32 = 7;
    pub const EXPR_META: u32 = 9;
    pub const EXPR_CT: u32 = 12;
    pub const EXPR_CONCAT: u32 = 13;
    pub const EXPR_NUMGEN: u32 = 23;
    pub const BYTE_ORDER_NONE: u32 = 0;
    pub const BYTE_ORDER_HOST: u32 = 1;
    pub const BYTE_ORDER_NETWORK: u32 = 2;
}
