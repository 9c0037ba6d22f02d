//! The types of PostgreSQL that have a form of their own in Lua, by their OIDs. Pure. All others are strings.

/// How a type is written, and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// With its least and greatest value.
    Integer(i64, i64),
    Float,
    Numeric,
    Text,
    Bytea,
    Json,
    Timestamp,
    Date,
    /// Of this OID.
    Array(u32),
    Other,
}

/// OID, OID of its array, name, kind.
const TYPES: &[(u32, u32, &str, Kind)] = &[
    (16, 1000, "boolean", Kind::Bool),
    (17, 1001, "bytea", Kind::Bytea),
    (18, 1002, "\"char\"", Kind::Text),
    (19, 1003, "name", Kind::Text),
    (20, 1016, "bigint", Kind::Integer(i64::MIN, i64::MAX)),
    (
        21,
        1005,
        "smallint",
        Kind::Integer(i16::MIN as i64, i16::MAX as i64),
    ),
    (
        23,
        1007,
        "integer",
        Kind::Integer(i32::MIN as i64, i32::MAX as i64),
    ),
    (25, 1009, "text", Kind::Text),
    (26, 1028, "oid", Kind::Integer(0, u32::MAX as i64)),
    (114, 199, "json", Kind::Json),
    (700, 1021, "real", Kind::Float),
    (701, 1022, "double precision", Kind::Float),
    (1042, 1014, "character", Kind::Text),
    (1043, 1015, "character varying", Kind::Text),
    (1082, 1182, "date", Kind::Date),
    (1114, 1115, "timestamp", Kind::Timestamp),
    (1184, 1185, "timestamp with time zone", Kind::Timestamp),
    (1700, 1231, "numeric", Kind::Numeric),
    (2950, 2951, "uuid", Kind::Other),
    (3802, 3807, "jsonb", Kind::Json),
    // Names for errors alone.
    (869, 1041, "inet", Kind::Other),
    (650, 651, "cidr", Kind::Other),
    (1083, 1183, "time", Kind::Other),
    (1186, 1187, "interval", Kind::Other),
    (1266, 1270, "time with time zone", Kind::Other),
    (790, 791, "money", Kind::Other),
];

pub(super) fn kind(oid: u32) -> Kind {
    for (own, array, _, kind) in TYPES {
        if *own == oid {
            return *kind;
        }
        if *array == oid {
            return Kind::Array(*own);
        }
    }
    Kind::Other
}

/// For errors.
pub(super) fn name(oid: u32) -> String {
    for (own, array, name, _) in TYPES {
        if *own == oid {
            return (*name).to_owned();
        }
        if *array == oid {
            return format!("{name}[]");
        }
    }
    format!("a type with the OID {oid}")
}
