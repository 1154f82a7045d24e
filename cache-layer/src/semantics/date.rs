//! The date formats of HTTP (RFC 9110, section 5.6.7), as seconds since the Unix epoch.
//!
//! The crate `httpdate` is not used, for two reasons that a test below checks. It refuses dates that senders do write: names in
//! another case, a wrong weekday, a leap second, a moment before the epoch. And it reads the two-digit years of RFC 850 dates
//! by a fixed pivot, where RFC 9110 requires at most fifty years after the present. All dates that `httpdate` reads and writes
//! have the same value here, which is tested as well.

use std::cell::RefCell;

use http::HeaderValue;

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const SECONDS_PER_DAY: u64 = 86_400;
const DAYS_BEFORE_EPOCH: u64 = days_before_year(1970);
/// `Fri, 31 Dec 9999 23:59:59 GMT`, the last second that the format can express.
const LAST_SECOND: u64 = 253_402_300_799;

/// Reads an IMF-fixdate, an RFC 850 date or an asctime date. Dates before the epoch become 0, and those after the year 9999
/// become its last second.
///
/// The layout is strict, and letters are compared without case. The weekday must be the name of a day, but not the right one:
/// senders get it wrong, and nothing depends on it. `now_secs` resolves the two-digit year of an RFC 850 date, which is at most
/// fifty years ahead.
pub(crate) fn parse_http_date(value: &[u8], now_secs: u64) -> Option<u64> {
    let (date, time) = imf_fixdate(Cursor(value))
        .or_else(|| rfc850_date(Cursor(value), now_secs))
        .or_else(|| asctime_date(Cursor(value)))?;
    let days = date.days_since_year_0()?;
    Some((days * SECONDS_PER_DAY + time).saturating_sub(DAYS_BEFORE_EPOCH * SECONDS_PER_DAY).min(LAST_SECOND))
}

/// Writes an IMF-fixdate; dates past the year 9999 saturate.
pub(crate) fn write_http_date(unix_secs: u64) -> HeaderValue {
    thread_local! {
        /// Most dates are written again within the same second.
        static LAST: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
    }
    let read = |last: &RefCell<Option<(u64, HeaderValue)>>| match &mut *last.borrow_mut() {
        Some((second, date)) if *second == unix_secs => date.clone(),
        last => last.insert((unix_secs, written(unix_secs))).1.clone(),
    };
    // The thread-local is gone while its thread ends.
    LAST.try_with(read).unwrap_or_else(|_| written(unix_secs))
}

/// As [`write_http_date`], from scratch.
fn written(unix_secs: u64) -> HeaderValue {
    let unix_secs = unix_secs.min(LAST_SECOND);
    let days = DAYS_BEFORE_EPOCH + unix_secs / SECONDS_PER_DAY;
    let time = unix_secs % SECONDS_PER_DAY;
    let (year, month, day) = date_of(days);

    let mut text = *b"Sun, 01 Jan 0000 00:00:00 GMT";
    // 1 January of the year 0 was a Saturday.
    text[..3].copy_from_slice(&WEEKDAYS[((days + 6) % 7) as usize].as_bytes()[..3]);
    write_digits(&mut text[5..7], day + 1);
    text[8..11].copy_from_slice(MONTHS[month].as_bytes());
    write_digits(&mut text[12..16], year);
    write_digits(&mut text[17..19], time / 3600);
    write_digits(&mut text[20..22], time / 60 % 60);
    write_digits(&mut text[23..25], time % 60);
    HeaderValue::from_bytes(&text).expect("a date is visible ASCII")
}

fn write_digits(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(mut cursor: Cursor<'_>) -> Option<(Date, u64)> {
    cursor.one_of(WEEKDAYS.iter().map(|name| &name[..3]))?;
    cursor.literal(", ")?;
    let day = cursor.digits(2)?;
    cursor.literal(" ")?;
    let month = cursor.one_of(MONTHS)?;
    cursor.literal(" ")?;
    let year = cursor.digits(4)?;
    cursor.literal(" ")?;
    let time = cursor.time()?;
    cursor.literal(" GMT")?;
    cursor.end()?;
    Some((Date { year, month, day }, time))
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc850_date(mut cursor: Cursor<'_>, now_secs: u64) -> Option<(Date, u64)> {
    cursor.one_of(WEEKDAYS)?;
    cursor.literal(", ")?;
    let day = cursor.digits(2)?;
    cursor.literal("-")?;
    let month = cursor.one_of(MONTHS)?;
    cursor.literal("-")?;
    let two_digits = cursor.digits(2)?;
    let latest = date_of(DAYS_BEFORE_EPOCH + now_secs.min(LAST_SECOND) / SECONDS_PER_DAY).0 + 50;
    let year = latest - (latest + 100 - two_digits) % 100;
    cursor.literal(" ")?;
    let time = cursor.time()?;
    cursor.literal(" GMT")?;
    cursor.end()?;
    Some((Date { year, month, day }, time))
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime_date(mut cursor: Cursor<'_>) -> Option<(Date, u64)> {
    cursor.one_of(WEEKDAYS.iter().map(|name| &name[..3]))?;
    cursor.literal(" ")?;
    let month = cursor.one_of(MONTHS)?;
    cursor.literal(" ")?;
    let day = match cursor.literal(" ") {
        Some(()) => cursor.digits(1)?,
        None => cursor.digits(2)?,
    };
    cursor.literal(" ")?;
    let time = cursor.time()?;
    cursor.literal(" ")?;
    let year = cursor.digits(4)?;
    cursor.end()?;
    Some((Date { year, month, day }, time))
}

/// The rest of the text. A step that does not match consumes nothing.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn literal(&mut self, expected: &str) -> Option<()> {
        let (head, rest) = self.0.split_at_checked(expected.len())?;
        if !head.eq_ignore_ascii_case(expected.as_bytes()) {
            return None;
        }
        self.0 = rest;
        Some(())
    }

    fn one_of<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) -> Option<usize> {
        names.into_iter().position(|name| self.literal(name).is_some())
    }

    fn digits(&mut self, count: usize) -> Option<u64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.0 = rest;
        Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }

    /// `08:49:37` as seconds of the day, a leap second included.
    fn time(&mut self) -> Option<u64> {
        let hour = self.digits(2)?;
        self.literal(":")?;
        let minute = self.digits(2)?;
        self.literal(":")?;
        let second = self.digits(2)?;
        (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A day of the proleptic Gregorian calendar; months count from 0, days from 1.
struct Date {
    year: u64,
    month: usize,
    day: u64,
}

impl Date {
    /// `None` for a day that the month does not have.
    fn days_since_year_0(&self) -> Option<u64> {
        if self.day == 0 || self.day > days_in_month(self.year, self.month) {
            return None;
        }
        let months: u64 = (0..self.month).map(|month| days_in_month(self.year, month)).sum();
        Some(days_before_year(self.year) + months + self.day - 1)
    }
}

const fn days_before_year(year: u64) -> u64 {
    year * 365 + year.div_ceil(4) - year.div_ceil(100) + year.div_ceil(400)
}

/// The year, the month and the day (both from 0) of the day with this number, counted from 1 January of the year 0.
///
/// In a year that begins on 1 March, the leap day is the last day, and the lengths of the months repeat: 31, 30, 31, 30, 31,
/// twice, and 31.
fn date_of(days: u64) -> (u64, usize, u64) {
    const FEBRUARY_29: u64 = 60;
    let Some(days) = days.checked_sub(FEBRUARY_29) else {
        // The year 0 is a leap year.
        return if days < 31 { (0, 0, days) } else { (0, 1, days - 31) };
    };
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (year * 365 + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5;
    let next_year = u64::from(month >= 10);
    (cycle * 400 + year + next_year, ((month + 2) % 12) as usize, day)
}

fn days_in_month(year: u64, month: usize) -> u64 {
    match month {
        1 if days_before_year(year + 1) - days_before_year(year) == 366 => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::{LAST_SECOND, MONTHS, WEEKDAYS, parse_http_date, write_http_date};

    /// 23 November 2026.
    const NOW: u64 = 1_795_392_000;
    const JUNE_2019: u64 = 1_560_000_000;

    fn parse(text: &str) -> Option<u64> {
        parse_http_date(text.as_bytes(), NOW)
    }

    #[test]
    fn the_three_formats_name_the_same_second() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(text), Some(784_111_777), "{text}");
        }
    }

    #[test]
    fn lenient_where_nothing_depends_on_it() {
        let august_2050 = Some(2_544_400_878);
        for text in [
            "Thu, 18 Aug 2050 02:01:18 GMT",
            "THU, 18 Aug 2050 02:01:18 GMT",
            "Thu, 18 AUG 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 gMT",
            "Mon, 18 Aug 2050 02:01:18 GMT",
            "Thursday, 18-Aug-50 02:01:18 GMT",
            "tHURSDAY, 18-aUG-50 02:01:18 gmt",
            "Thu Aug 18 02:01:18 2050",
        ] {
            assert_eq!(parse(text), august_2050, "{text}");
        }
        assert_eq!(parse("Thu Aug  8 02:01:18 2050"), august_2050.map(|secs| secs - 10 * 86_400));
    }

    #[test]
    fn far_dates_do_not_overflow() {
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Wed, 31 Dec 1969 23:59:59 GMT", 0),
            ("Sat, 01 Jan 0000 00:00:00 GMT", 0),
            ("Tue, 19 Jan 2038 03:14:08 GMT", 2_147_483_648),
            ("Tue, 19 Jan 2038 14:14:08 GMT", 2_147_523_248),
            ("Sun, 21 Nov 2286 04:46:39 GMT", 10_000_039_599),
            ("Fri, 31 Dec 9999 23:59:59 GMT", LAST_SECOND),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_only_resembles_a_date_is_refused() {
        for text in [
            "",
            "0",
            "-1",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18 AEST",
            "Thu, 18 Aug 2050 02:01:18 +0000",
            "Thu, 18 Aug 2050 02:01:18",
            "Thu, 18 Aug 2050 02:01:18 GMT ",
            " Thu, 18 Aug 2050 02:01:18 GMT",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu,18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu,  18 Aug 2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 8 Aug 2050 02:01:18 GMT",
            "Thu, 18 August 2050 02:01:18 GMT",
            "Thursday, 18 Aug 2050 02:01:18 GMT",
            "Thu, 18-Aug-50 02:01:18 GMT",
            "Thursday, 18-Aug-2050 02:01:18 GMT",
            "Thu Aug 8 02:01:18 2050",
            "Thu Aug  8 02:01:18 2050 GMT",
            "Xyz, 18 Aug 2050 02:01:18 GMT",
            "Thu, 18 Xyz 2050 02:01:18 GMT",
            "Thu, 00 Aug 2050 02:01:18 GMT",
            "Thu, 31 Apr 2050 02:01:18 GMT",
            "Thu, 29 Feb 2050 02:01:18 GMT",
            "Thu, 29 Feb 2100 02:01:18 GMT",
            "Thu, 18 Aug 2050 24:01:18 GMT",
            "Thu, 18 Aug 2050 02:60:18 GMT",
            "Thu, 18 Aug 2050 02:01:61 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:19 GMT",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn leap_days_and_leap_seconds_are_dates() {
        assert_eq!(parse("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
        assert_eq!(parse("Sat, 31 Dec 2016 23:59:60 GMT"), Some(1_483_228_800));
    }

    #[test]
    fn a_two_digit_year_is_at_most_fifty_years_ahead() {
        for (year, expected) in [
            ("26", "Fri, 01 Jan 2026 00:00:00 GMT"),
            ("76", "Fri, 01 Jan 2076 00:00:00 GMT"),
            ("77", "Fri, 01 Jan 1977 00:00:00 GMT"),
            ("99", "Fri, 01 Jan 1999 00:00:00 GMT"),
            ("00", "Fri, 01 Jan 2000 00:00:00 GMT"),
        ] {
            assert_eq!(parse(&format!("Friday, 01-Jan-{year} 00:00:00 GMT")), parse(expected), "{year}");
        }
    }

    #[test]
    fn dates_are_written_with_their_weekday() {
        for (secs, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (LAST_SECOND, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(write_http_date(secs), expected);
        }
    }

    #[test]
    fn no_date_is_later_than_one_that_can_be_written() {
        for (text, now) in [("Fri, 31 Dec 9999 23:59:60 GMT", NOW), ("Friday, 01-Jan-30 00:00:00 GMT", LAST_SECOND)] {
            assert_eq!(parse_http_date(text.as_bytes(), now), Some(LAST_SECOND), "{text}");
        }
    }

    /// A moment in one of the three formats.
    fn in_each_format(secs: u64) -> impl Strategy<Value = String> {
        let fixdate = write_http_date(secs).to_str().unwrap().to_owned();
        let weekday = WEEKDAYS.iter().find(|name| fixdate.starts_with(&name[..3])).unwrap();
        let (day, month, year, time) = (&fixdate[5..7], &fixdate[8..11], &fixdate[12..16], &fixdate[17..25]);
        assert!(MONTHS.contains(&month));
        let rfc850 = format!("{weekday}, {day}-{month}-{} {time} GMT", &year[2..]);
        let asctime = format!("{} {month} {:>2} {time} {year}", &weekday[..3], day.trim_start_matches('0'));
        prop::sample::select(vec![fixdate, rfc850, asctime])
    }

    /// Once this test fails, `httpdate` can replace this module.
    #[test]
    fn httpdate_refuses_what_is_read_here() {
        for text in [
            "THU, 18 AUG 2050 02:01:18 gMT",
            "Mon, 18 Aug 2050 02:01:18 GMT",
            "Sat, 31 Dec 2016 23:59:60 GMT",
            "Wed, 31 Dec 1969 23:59:59 GMT",
        ] {
            assert!(parse(text).is_some() && httpdate::parse_http_date(text).is_err(), "{text}");
        }
        let in_2026 = "Saturday, 01-Jan-72 00:00:00 GMT";
        assert_eq!(parse(in_2026), parse("Fri, 01 Jan 2072 00:00:00 GMT"));
        assert_eq!(httpdate::parse_http_date(in_2026).unwrap(), UNIX_EPOCH + Duration::from_secs(2 * 365 * 86_400));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(secs in 0..=LAST_SECOND) {
            prop_assert_eq!(parse_http_date(write_http_date(secs).as_bytes(), NOW), Some(secs));
        }

        #[test]
        fn later_seconds_of_the_same_day_keep_the_date(secs in 0..=LAST_SECOND) {
            let (text, midnight) = (write_http_date(secs), write_http_date(secs - secs % 86_400));
            prop_assert_eq!(&text.as_bytes()[..16], &midnight.as_bytes()[..16]);
        }

        #[test]
        fn junk_never_panics(junk: Vec<u8>, now: u64) {
            let _ = parse_http_date(&junk, now);
        }

        #[test]
        fn a_damaged_date_never_panics(secs in 0..=LAST_SECOND, at in 0..29_usize, byte: u8, now: u64) {
            let mut text = write_http_date(secs).as_bytes().to_vec();
            text[at] = byte;
            let _ = parse_http_date(&text, now);
        }

        #[test]
        fn dates_are_written_as_httpdate_does(secs in 0..=LAST_SECOND) {
            let moment = UNIX_EPOCH + Duration::from_secs(secs);
            let (ours, theirs) = (write_http_date(secs), httpdate::fmt_http_date(moment));
            prop_assert_eq!(ours.as_bytes(), theirs.as_bytes());
        }

        #[test]
        fn what_httpdate_reads_as_well_is_read_as_the_same_second(
            text in (0..=LAST_SECOND).prop_flat_map(in_each_format), at in 0..40_usize, byte in "[ -~]?",
        ) {
            let mut text = text;
            if !byte.is_empty() && at < text.len() {
                text.replace_range(at..=at, &byte);
            }
            // The pivot of `httpdate` is 1970, which is the pivot here for a date in 2019.
            let ours = parse_http_date(text.as_bytes(), JUNE_2019);
            // `httpdate` accepts any byte between the date and the time of an RFC 850 date.
            if let (Ok(theirs), Some(ours)) = (httpdate::parse_http_date(&text), ours) {
                prop_assert_eq!(ours, theirs.duration_since(UNIX_EPOCH).unwrap().as_secs(), "{}", text);
            }
        }

        #[test]
        fn any_clock_places_a_two_digit_year(year in 0..100_u64, now in prop_oneof![any::<u64>(), Just(u64::MAX)]) {
            let text = format!("Friday, 01-Jan-{year:02} 00:00:00 GMT");
            prop_assert!(parse_http_date(text.as_bytes(), now).is_some());
        }
    }
}
