//! The slots of a cluster: which slot a key is in, and which primary has it.

use redis::{ErrorKind, FromRedisValue, RedisResult, Value, from_redis_value_ref};

use crate::{hex, key::Key};

const SLOTS: usize = 16_384;

/// The slot of a name with `tag` between its braces: CRC-16/XMODEM.
pub(crate) fn slot_of(tag: impl IntoIterator<Item = u8>) -> u16 {
    tag.into_iter().fold(0, |crc: u16, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]) % SLOTS as u16
}

/// The slot of all names that belong to `key`: its digest in hex is between the braces.
pub(crate) fn slot_of_key(key: &Key) -> u16 {
    slot_of(key.id().primary.into_iter().flat_map(hex::of_byte))
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// A primary, as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Primary {
    /// Its node id, or its address if it has none.
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Primary {
    /// Whether it is known by its node id.
    pub(crate) fn has_id(&self) -> bool {
        !self.name.contains(':')
    }
}

/// Which primary has which slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    pub(crate) primaries: Vec<Primary>,
    /// For each slot, one more than the index of its primary; 0 if it has none.
    owners: Vec<u16>,
}

impl Slots {
    /// The index of the primary that has `slot`.
    pub(crate) fn owner(&self, slot: u16) -> Option<usize> {
        usize::from(*self.owners.get(usize::from(slot))?).checked_sub(1)
    }

    /// Parses the reply to `CLUSTER SLOTS` by the node at `asked`, which may leave out the host by which it was reached.
    pub(crate) fn parse(reply: &Value, asked: &str) -> RedisResult<Self> {
        let mut slots = Self { primaries: Vec::new(), owners: vec![0; SLOTS] };
        for range in list(reply)? {
            let [first, last, primary, ..] = list(range)? else { return Err(malformed()) };
            let [host, port, rest @ ..] = list(primary)? else { return Err(malformed()) };
            let host = read::<Option<String>>(host)?.filter(|host| !host.is_empty() && host != "?");
            let (host, port) = (host.unwrap_or_else(|| asked.to_owned()), number::<u16>(port)?);
            let name = match rest.first() {
                Some(id) => read(id)?,
                None => format!("{host}:{port}"),
            };
            let known = slots.primaries.iter().position(|primary| primary.name == name);
            let index = known.unwrap_or_else(|| {
                slots.primaries.push(Primary { name, host, port });
                slots.primaries.len() - 1
            });
            let (first, last) = (number::<usize>(first)?, number::<usize>(last)?);
            let owner = u16::try_from(index + 1).map_err(|_| malformed())?;
            slots.owners.get_mut(first..=last).ok_or_else(malformed)?.fill(owner);
        }
        // A node that knows no slots adds nothing: the known topology stays.
        if slots.primaries.is_empty() { Err(malformed()) } else { Ok(slots) }
    }
}

fn list(value: &Value) -> RedisResult<&[Value]> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(malformed()),
    }
}

/// The driver would truncate a number that is too large.
fn number<T: TryFrom<i64>>(value: &Value) -> RedisResult<T> {
    match value {
        Value::Int(number) => T::try_from(*number).map_err(|_| malformed()),
        _ => Err(malformed()),
    }
}

fn read<T: FromRedisValue>(value: &Value) -> RedisResult<T> {
    from_redis_value_ref(value).map_err(|_| malformed())
}

fn malformed() -> redis::RedisError {
    (ErrorKind::UnexpectedReturnType, "not a list of slots").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_servers() {
        // From the specification of Redis Cluster, and by `CLUSTER KEYSLOT`.
        assert_eq!(slot_of(*b"123456789"), 0x31c3);
        assert_eq!(slot_of(*b"foo"), 12_182);
        let key = Key::new(["http://a/x"]);
        let digest: String = key.id().primary.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(slot_of_key(&key), slot_of(digest.into_bytes()));
        assert_eq!(slot_of_key(&key), slot_of_key(&key.variant(b"de")));
    }

    fn range(first: i64, last: i64, host: Value, id: &str) -> Value {
        let node = Value::Array(vec![host, Value::Int(7_000), Value::BulkString(id.into()), Value::Array(vec![])]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node])
    }

    #[test]
    fn ranges_of_one_node_are_one_primary() {
        let a = || Value::BulkString(b"a".to_vec());
        let reply = Value::Array(vec![
            range(0, 99, a(), "one"),
            range(100, 16_383, Value::Nil, "two"),
            range(50, 60, a(), "one"),
        ]);
        let slots = Slots::parse(&reply, "asked").unwrap();
        let hosts: Vec<_> = slots.primaries.iter().map(|primary| &primary.host[..]).collect();
        assert_eq!(hosts, ["a", "asked"]);
        assert_eq!((slots.owner(0), slots.owner(55), slots.owner(16_383)), (Some(0), Some(0), Some(1)));
        assert_eq!(Slots::default().owner(0), None);
    }

    #[test]
    fn nonsense_is_an_error() {
        let name = || Value::BulkString(b"a".to_vec());
        for reply in [
            Value::Okay,
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(0, 16_384, name(), "one")]),
            Value::Array(vec![range(9, 3, name(), "one")]),
            Value::Array(vec![range(-1, 3, name(), "one")]),
        ] {
            assert!(Slots::parse(&reply, "asked").is_err(), "{reply:?}");
        }
    }
}
