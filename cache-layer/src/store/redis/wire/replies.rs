//! The replies that the server may give to each command. A reply of another kind or length is rejected: whatever caused it, this
//! connection's replies can't be trusted to belong to its commands, so nothing is taken from it.
//!
//! The driver's own conversions are lenient: to them `nil`, an empty array, an empty set and an empty map are all an empty list,
//! and `OK` is true.

use std::time::Duration;

use redis::{ErrorKind, FromRedisValue, ParsingError, RedisError, RedisResult, Value};

use super::errors::is_wrong_type;
use crate::{hex, tag::TagRecord};

/// A string.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bulk(pub(crate) Vec<u8>);

/// A string, or nothing under that name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Maybe(pub(crate) Option<Vec<u8>>);

/// A string, or nothing of that type under that name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AnyType(pub(crate) Option<Vec<u8>>);

/// The result of a `SET … NX GET`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was set, since nothing was there.
    Now,
    /// It was not set, since this value is there.
    Not(Vec<u8>),
    /// A value of another type is there.
    Foreign,
}

/// The values of several names, in their order; to be compared with [how many](Self::of) were asked for.
#[derive(Debug)]
pub(crate) struct Values(Vec<Option<Vec<u8>>>);

/// Yes or no, as scripts return it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flag(pub(crate) bool);

/// A number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u64);

/// How many of two names existed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OfTwo;

/// Milliseconds that a key has left; negative if it does not exist or does not expire.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left(pub(crate) i64);

/// The server's time: 16 hex digits of microseconds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) [u8; 16]);

/// The server's time as `TIME` returns it, in the form of a [`Moment`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) [u8; 16]);

/// `OK`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Done;

/// The result of a script that commits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    Stored,
    Refused,
    /// Nothing was written, since a tag has another token than the entries: when a tag was last invalidated, and the record of
    /// each tag that was examined.
    Differs([u8; 16], Vec<Option<TagRecord>>),
}

/// The state of a tag, whether it was made just now or not.
#[derive(Debug)]
pub(crate) struct Stamped {
    pub(crate) record: TagRecord,
}

/// The result of a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Banned {
    Listed,
    /// The list has no room.
    Full,
}

/// The entries of a stream: of each, what is in its only field, `record`; nothing for one with other fields, which another program
/// has added.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Records(pub(crate) Vec<Option<Vec<u8>>>);

/// A step of a `SCAN`: the cursor of the next one, and the names that were found.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) cursor: u64,
    pub(crate) names: Vec<Vec<u8>>,
}

impl Values {
    /// The values, if they are as many as were asked for.
    pub(crate) fn of(self, asked: usize) -> RedisResult<Vec<Option<Vec<u8>>>> {
        exactly(asked, self.0)
    }
}

impl Count {
    /// The number, if it is at most the number of keys that were asked for.
    pub(crate) fn at_most(self, asked: usize) -> RedisResult<u64> {
        if self.0 <= asked as u64 { Ok(self.0) } else { Err(no_answer()) }
    }
}

impl Left {
    /// The remaining life of a key that expires.
    pub(crate) fn life(&self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_millis)
    }
}

/// The replies, if they are as many as the commands.
pub(crate) fn exactly<T>(asked: usize, replies: Vec<T>) -> RedisResult<Vec<T>> {
    if replies.len() == asked { Ok(replies) } else { Err(no_answer()) }
}

/// A string that was written as text.
pub(crate) fn text(bytes: Vec<u8>) -> RedisResult<String> {
    String::from_utf8(bytes).map_err(|_| no_answer())
}

/// The error for a reply that does not answer its command.
pub(crate) fn no_answer() -> RedisError {
    (ErrorKind::Parse, "a reply that is no answer to what was asked").into()
}

fn unexpected() -> ParsingError {
    "a reply that is no answer to what was asked".into()
}

/// Parses a reply by value or by reference; the driver requires only the latter.
macro_rules! reply {
    ($type:ty, $read:expr) => {
        impl FromRedisValue for $type {
            fn from_redis_value_ref(value: &Value) -> Result<Self, ParsingError> {
                Self::from_redis_value(value.clone())
            }

            fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
                let read: fn(Value) -> Option<Self> = $read;
                read(value).ok_or_else(unexpected)
            }
        }
    };
}

reply!(Bulk, |value| string(value).map(Self));
reply!(Maybe, |value| match value {
    Value::Nil => Some(Self(None)),
    value => string(value).map(|bytes| Self(Some(bytes))),
});
reply!(AnyType, |value| match value {
    Value::Nil => Some(Self(None)),
    Value::ServerError(error) => is_wrong_type(&error.into()).then_some(Self(None)),
    value => string(value).map(|bytes| Self(Some(bytes))),
});
reply!(Taken, |value| match value {
    Value::Nil => Some(Self::Now),
    Value::ServerError(error) => is_wrong_type(&error.into()).then_some(Self::Foreign),
    value => string(value).map(Self::Not),
});
reply!(Values, |value| match value {
    Value::Array(values) => {
        let string_or_nil = |value| match value {
            Value::Nil => Some(None),
            value => string(value).map(Some),
        };
        values.into_iter().map(string_or_nil).collect::<Option<_>>().map(Self)
    }
    _ => None,
});
reply!(Flag, |value| flag(&value).map(Self));
reply!(Count, |value| match value {
    Value::Int(count) => count.try_into().ok().map(Self),
    _ => None,
});
reply!(OfTwo, |value| matches!(value, Value::Int(0..=2)).then_some(Self));
reply!(Left, |value| match value {
    Value::Int(left @ -2..) => Some(Self(left)),
    _ => None,
});
reply!(Moment, |value| moment(&string(value)?).map(Self));
reply!(Time, |value| match value {
    Value::Array(parts) => {
        let number = |value| str::from_utf8(&string(value)?).ok()?.parse::<u64>().ok();
        let [seconds, micros] = parts.try_into().ok()?;
        let micros = number(seconds)?.checked_mul(1_000_000)?.checked_add(number(micros)?)?;
        Some(Self(hex::of_u64(micros)))
    }
    _ => None,
});
reply!(Done, |value| (value == Value::Okay).then_some(Self));
reply!(Commit, |value| match value {
    Value::Array(parts) => {
        let mut parts = parts.into_iter();
        let last = moment(&string(parts.next()?)?)?;
        let token = |part| match &string(part)?[..] {
            b"" => Some(None),
            bytes => TagRecord::parse(bytes).map(Some),
        };
        Some(Self::Differs(last, parts.map(token).collect::<Option<_>>()?))
    }
    value => flag(&value).map(|stored| if stored { Self::Stored } else { Self::Refused }),
});
reply!(Stamped, |value| match value {
    Value::Array(parts) => {
        let [token, created] = parts.try_into().ok()?;
        let record = TagRecord::parse(&string(token)?)?;
        flag(&created).map(|_| Self { record })
    }
    _ => None,
});
reply!(Banned, |value| match &string(value)?[..] {
    b"full" => Some(Self::Full),
    other => moment(other).map(|_| Self::Listed),
});
reply!(Scanned, |value| match value {
    Value::Array(parts) => {
        let [cursor, names] = parts.try_into().ok()?;
        let cursor = str::from_utf8(&string(cursor)?).ok()?.parse().ok()?;
        let Value::Array(names) = names else { return None };
        Some(Self { cursor, names: names.into_iter().map(string).collect::<Option<_>>()? })
    }
    _ => None,
});

reply!(Records, |value| match value {
    Value::Array(entries) => {
        let record = |entry| {
            let Value::Array(parts) = entry else { return None };
            let [id, fields] = parts.try_into().ok()?;
            string(id)?;
            let Value::Array(fields) = fields else { return None };
            let fields: Vec<Vec<u8>> = fields.into_iter().map(string).collect::<Option<_>>()?;
            if fields.is_empty() || fields.len() % 2 == 1 {
                return None;
            }
            Some(<[_; 2]>::try_from(fields).ok().filter(|[name, _]| name == b"record").map(|[_, record]| record))
        };
        entries.into_iter().map(record).collect::<Option<_>>().map(Self)
    }
    _ => None,
});

fn string(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Int(0) => Some(false),
        Value::Int(1) => Some(true),
        _ => None,
    }
}

/// 16 hex digits, which are compared as text.
pub(crate) fn moment(bytes: &[u8]) -> Option<[u8; 16]> {
    let digits: [u8; 16] = bytes.try_into().ok()?;
    digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn array(values: impl IntoIterator<Item = Value>) -> Value {
        Value::Array(values.into_iter().collect())
    }

    /// Values that may come instead of an answer, to any command.
    fn no_answers() -> Vec<Value> {
        vec![
            Value::Nil,
            Value::Okay,
            Value::Int(-1),
            Value::Int(7),
            Value::Boolean(true),
            Value::Double(1.0),
            Value::SimpleString("1".to_owned()),
            bulk(""),
            bulk("1"),
            array([]),
            array([Value::Nil]),
            array([bulk("a"), bulk("b"), bulk("c")]),
            array([array([bulk("a")]), array([])]),
            Value::Set(vec![]),
            Value::Set(vec![bulk("a"), bulk("b")]),
            Value::Map(vec![]),
            Value::Map(vec![(bulk("a"), bulk("b"))]),
        ]
    }

    fn read<T: FromRedisValue>(value: &Value) -> Result<T, ParsingError> {
        T::from_redis_value_ref(value)
    }

    #[test]
    fn as_many_values_as_names_each_a_string_or_nothing() {
        let reply = array([bulk("a"), Value::Nil]);
        assert_eq!(read::<Values>(&reply).unwrap().of(2).unwrap(), [Some(b"a".to_vec()), None]);
        for value in no_answers() {
            let read = read::<Values>(&value).map_err(RedisError::from).and_then(|values| values.of(2));
            assert!(read.is_err(), "{value:?}");
        }
    }

    #[test]
    fn nothing_but_an_answer_is_one() {
        let token = format!("{:032}", 0).replace("00000000", "0000000a");
        let token = format!("{}c", &token[..31]);
        let moment = "000648f1a2b3c4d5";
        assert!(read::<Flag>(&Value::Int(1)).unwrap().0 && !read::<Flag>(&Value::Int(0)).unwrap().0);
        assert_eq!(read::<Count>(&Value::Int(2)).unwrap().at_most(2).unwrap(), 2);
        assert_eq!(&read::<Moment>(&bulk(moment)).unwrap().0, moment.as_bytes());
        assert_eq!(
            &read::<Stamped>(&array([bulk(&token), Value::Int(1)])).unwrap().record.token.0[..],
            token.as_bytes()
        );
        assert!([0, 1, 2].iter().all(|&count| read::<OfTwo>(&Value::Int(count)).is_ok()));
        let scanned = read::<Scanned>(&array([bulk("17"), array([bulk("a")])])).unwrap();
        assert_eq!((scanned.cursor, scanned.names), (17, vec![b"a".to_vec()]));
        for value in no_answers() {
            assert!(read::<Flag>(&value).is_err(), "{value:?}");
            assert!(read::<OfTwo>(&value).is_err(), "{value:?}");
            assert!(read::<Moment>(&value).is_err(), "{value:?}");
            assert!(read::<Stamped>(&value).is_err(), "{value:?}");
            assert!(read::<Scanned>(&value).is_err(), "{value:?}");
            let count = read::<Count>(&value).map_err(RedisError::from).and_then(|count| count.at_most(2));
            assert!(count.is_err(), "{value:?}");
            assert_eq!(read::<Bulk>(&value).is_ok(), matches!(value, Value::BulkString(_)), "{value:?}");
            assert_eq!(read::<Done>(&value).is_ok(), value == Value::Okay, "{value:?}");
        }
        for odd in ["000648F1A2B3C4D5", "000648f1a2b3c4d", "000648f1a2b3c4d5a", "000648f1a2b3c4 5"] {
            assert!(read::<Moment>(&bulk(odd)).is_err(), "{odd}");
        }
        for odd in [array([bulk("-1"), array([])]), array([bulk("1"), Value::Nil]), array([bulk("1"), bulk("a")])] {
            assert!(read::<Scanned>(&odd).is_err(), "{odd:?}");
        }
        assert!(read::<Stamped>(&array([bulk(&token), Value::Nil])).is_err());
    }

    #[test]
    fn records_are_what_a_stream_has_in_its_field() {
        let entry = |fields: Vec<Value>| array([array([bulk("1-0"), array(fields)])]);
        assert_eq!(read::<Records>(&array([])).unwrap(), Records(vec![]));
        let record = |fields| read::<Records>(&entry(fields)).unwrap();
        assert_eq!(record(vec![bulk("record"), bulk("a")]), Records(vec![Some(b"a".to_vec())]));
        assert_eq!(record(vec![bulk("who"), bulk("me")]), Records(vec![None]));
        assert_eq!(record(["record", "a", "why", "test"].map(bulk).to_vec()), Records(vec![None]));
        for odd in [vec![], vec![bulk("record")], vec![bulk("record"), Value::Int(7)]] {
            assert!(read::<Records>(&entry(odd)).is_err());
        }
        for value in no_answers() {
            assert_eq!(read::<Records>(&value).is_ok(), value == array([]), "{value:?}");
        }
    }

    #[test]
    fn nothing_is_nil_and_what_is_left_is_a_number() {
        assert_eq!(read::<Maybe>(&Value::Nil).unwrap(), Maybe(None));
        assert_eq!(read::<Maybe>(&bulk("a")).unwrap(), Maybe(Some(b"a".to_vec())));
        assert_eq!([-2, 7].map(|left| read::<Left>(&Value::Int(left)).unwrap().0), [-2, 7]);
        assert!(read::<Left>(&Value::Int(-3)).is_err());
        for value in no_answers() {
            assert_eq!(read::<Maybe>(&value).is_ok(), matches!(value, Value::Nil | Value::BulkString(_)), "{value:?}");
            assert_eq!(read::<Left>(&value).is_ok(), matches!(value, Value::Int(_)), "{value:?}");
        }
    }

    #[test]
    fn a_lease_is_taken_by_nil_and_by_nothing_else() {
        let foreign = || redis::parse_redis_value(b"-WRONGTYPE Operation against a key\r\n").unwrap();
        assert_eq!(read::<Taken>(&Value::Nil).unwrap(), Taken::Now);
        assert_eq!(read::<Taken>(&bulk("a")).unwrap(), Taken::Not(b"a".to_vec()));
        assert_eq!(read::<Taken>(&foreign()).unwrap(), Taken::Foreign);
        assert_eq!(read::<AnyType>(&foreign()).unwrap(), AnyType(None));
        let full = redis::parse_redis_value(b"-OOM command not allowed\r\n").unwrap();
        assert!(read::<Taken>(&full).is_err() && read::<AnyType>(&full).is_err());
        for value in no_answers() {
            let expected = matches!(value, Value::Nil | Value::BulkString(_));
            assert_eq!(read::<Taken>(&value).is_ok(), expected, "{value:?}");
            assert_eq!(read::<AnyType>(&value).is_ok(), expected, "{value:?}");
        }
    }

    #[test]
    fn the_time_is_two_numbers() {
        let time = array([bulk("1800000000"), bulk("000007")]);
        assert_eq!(read::<Time>(&time).unwrap().0, hex::of_u64(1_800_000_000_000_007));
        for value in no_answers() {
            assert!(read::<Time>(&value).is_err(), "{value:?}");
        }
        for odd in [
            array([bulk("1"), Value::Int(2)]),
            array([bulk("-1"), bulk("2")]),
            array([bulk(&u64::MAX.to_string()), bulk("0")]),
        ] {
            assert!(read::<Time>(&odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_commit_is_stored_or_refused_or_told_what_the_tokens_are() {
        let (last, token) = ("000648f1a2b3c4d5", "000000000000000a000000000000000c");
        assert_eq!(read::<Commit>(&Value::Int(1)).unwrap(), Commit::Stored);
        assert_eq!(read::<Commit>(&Value::Int(0)).unwrap(), Commit::Refused);
        let told = read::<Commit>(&array([bulk(last), bulk(token), bulk("")])).unwrap();
        let Commit::Differs(noted, tokens) = told else { panic!("{told:?}") };
        assert_eq!((&noted[..], tokens), (last.as_bytes(), vec![TagRecord::parse(token.as_bytes()), None]));
        for value in no_answers() {
            assert!(read::<Commit>(&value).is_err(), "{value:?}");
        }
        assert!(read::<Commit>(&array([bulk(last), bulk("x")])).is_err());
    }

    #[test]
    fn a_part_too_few_or_too_many_is_no_answer() {
        let (token, one) = (bulk("000000000000000a000000000000000c"), Value::Int(1));
        assert!(read::<Stamped>(&array([token.clone(), one.clone()])).is_ok());
        for parts in [vec![token.clone()], vec![token, one.clone(), one]] {
            assert!(read::<Stamped>(&array(parts.clone())).is_err(), "{parts:?}");
        }
        let (cursor, names) = (bulk("0"), array([bulk("a")]));
        for parts in [vec![cursor.clone()], vec![cursor, names.clone(), names]] {
            assert!(read::<Scanned>(&array(parts.clone())).is_err(), "{parts:?}");
        }
    }
}
