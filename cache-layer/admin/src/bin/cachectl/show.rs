//! Answers in a form for people.

use std::fmt::Write as _;

use serde_json::Value;

/// Rows with aligned columns; the last column takes the remaining width.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|name| name.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{:width$}", printable(cell)));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Removes control characters, which a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { '\u{fffd}' } else { one }).collect()
}

fn list(pairs: &[(&str, String)]) -> String {
    let shown: Vec<_> = pairs.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = shown.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    shown.iter().map(|(name, value)| format!("{name:width$}  {}\n", printable(value))).collect()
}

/// A string without its quotes; empty for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn rows<'a>(value: &'a Value, row: impl FnMut(&'a Value) -> Vec<String>) -> Vec<Vec<String>> {
    value.as_array().into_iter().flatten().map(row).collect()
}

fn micros(value: &Value) -> String {
    match value.as_f64() {
        None => String::new(),
        Some(micros) if micros < 1e3 => format!("{micros:.0} µs"),
        Some(micros) if micros < 1e6 => format!("{:.1} ms", micros / 1e3),
        Some(micros) => format!("{:.1} s", micros / 1e6),
    }
}

fn millis(value: &Value) -> String {
    value.as_f64().map(|millis| micros(&Value::from(millis * 1000.0))).unwrap_or_default()
}

fn bytes(value: &Value) -> String {
    match value.as_f64() {
        None => String::new(),
        Some(bytes) if bytes < 1024.0 => format!("{bytes:.0} B"),
        Some(bytes) if bytes < 1_048_576.0 => format!("{:.1} KiB", bytes / 1024.0),
        Some(bytes) => format!("{:.1} MiB", bytes / 1_048_576.0),
    }
}

/// In UTC, to the second (the calendar of days since 1970-01-01 after Howard Hinnant, "chrono-compatible date algorithms").
fn moment(value: &Value) -> String {
    let Some(seconds) = value.as_u64().filter(|at| *at > 0).map(|at| at / 1000) else { return String::new() };
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

pub(crate) fn status(stats: &Value) -> String {
    let window = |of: &Value| {
        let sum = &of["sum"];
        let ratio = sum["hit_ratio"].as_f64().map(|ratio| format!("{:.1} %", ratio * 100.0)).unwrap_or_default();
        let each = sum["load_ms"].as_f64().zip(sum["loads"].as_f64().filter(|loads| *loads > 0.0));
        vec![
            text(&of["name"]),
            ratio,
            text(&sum["hits"]),
            text(&sum["misses"]),
            text(&sum["bypasses"]),
            text(&sum["loads"]),
            each.map(|(all, loads)| millis(&Value::from(all / loads))).unwrap_or_default(),
            millis(&sum["saved_ms"]),
        ]
    };
    let mut shown = format!("{}\n", text(&stats["name"]));
    let windows = rows(&stats["windows"], window);
    if !windows.is_empty() {
        let head = ["LAST", "HIT RATIO", "HITS", "MISSES", "BYPASSES", "LOADS", "EACH", "SAVED"];
        let _ = write!(shown, "\n{}", table(&head, &windows));
    }
    let (memory, redis) = (&stats["memory"], &stats["redis"]);
    let mut pairs = vec![("loading now", text(&stats["loads_in_flight"])), ("patterns to sweep", text(&stats["bans"]))];
    if !memory.is_null() {
        pairs.push((
            "memory",
            format!("{}, {} entries, {}", text(&memory["kind"]), memory["entries"], bytes(&memory["bytes"])),
        ));
    }
    if !redis.is_null() {
        let state = if redis["connected"] == Value::Bool(true) { "connected" } else { "not connected" };
        let said = format!("{state}, breaker {}, {}", text(&redis["breaker"]), micros(&redis["ping_us"]));
        pairs.push(("redis", said.trim_end_matches(", ").to_owned()));
        pairs.push(("process", text(&redis["process"])));
        pairs.push(("lost connections", text(&redis["lost_connections"])));
        pairs.push(("redis memory", text(&redis["used_memory"])));
        pairs.push(("invalidations pending", text(&redis["pending_invalidations"])));
        pairs.push(("trouble", text(&redis["error"])));
    }
    let _ = write!(shown, "\n{}", list(&pairs));
    let reasons = rows(&stats["windows"][1]["sum"]["reasons"], |one| vec![text(&one["name"]), text(&one["count"])]);
    if !reasons.is_empty() {
        let _ = write!(shown, "\n{}", table(&["REASON (15m)", "TIMES"], &reasons));
    }
    shown
}

pub(crate) fn explanation(told: &Value) -> String {
    let (key, entry, reason) = (&told["key"], &told["entry"], &told["reason"]);
    let because = match reason {
        Value::Null => String::new(),
        reason => format!("{}: {}", text(&reason["name"]), text(&reason["means"])),
    };
    let mut shown = format!("{}: {}\n\n", text(&told["verdict"]).to_uppercase(), text(&told["sentence"]));
    shown += &list(&[
        ("Cache-Status", text(&told["cache_status"])),
        (
            "",
            if told["is_final"] == Value::Bool(true) || told["cache_status"].is_null() {
                String::new()
            } else {
                "(the application decides)".to_owned()
            },
        ),
        ("reason", because),
        ("stored, but", text(&told["rejected"])),
        ("void by the pattern", text(&told["banned_by"])),
        ("key", text(&key["readable"])),
        ("digest", text(&key["digest"])),
        ("variant by", text(&told["variant"]["fields"])),
        ("found in", if told["tier"] == "none" { String::new() } else { text(&told["tier"]) }),
        ("rule", text(&told["rule"])),
        ("stored for", text(&told["alias_of"])),
        ("lease", lease(&told["lease"])),
    ]);
    for stored in [entry, &told["value"]].into_iter().filter(|stored| !stored.is_null()) {
        let _ = write!(shown, "\n{}", in_entry(stored, stored));
    }
    let notes = rows(&told["notes"], |note| vec![text(note)]).concat();
    for note in &notes {
        let _ = writeln!(shown, "\nnote: {note}");
    }
    let said = told["settings"].as_array().into_iter().flatten().filter(|one| one["origin"] != "default");
    let said: Vec<_> = said.map(|one| vec![text(&one["name"]), text(&one["value"]), text(&one["origin"])]).collect();
    if !said.is_empty() {
        let _ = write!(shown, "\n{}", table(&["SETTING", "IS", "SAID BY"], &said));
    }
    shown += &tags_and_decisions(told);
    let plan = &told["plan"];
    if !plan.is_null() {
        let tags = rows(&plan["tags"], |tag| vec![text(tag)]).concat().join(", ");
        let stored =
            [("would be fresh for", millis(&plan["fresh_ms"])), ("kept for", millis(&plan["kept_ms"])), ("tags", tags)];
        let _ = write!(shown, "\n{}", list(&stored));
    }
    shown
}

/// The state of a lease, and who holds it.
fn lease(lease: &Value) -> String {
    let (state, holder) = (text(&lease["state"]), &lease["holder"]);
    if holder.is_null() {
        return state;
    }
    let until = Some(millis(&holder["left_ms"])).filter(|left| !left.is_empty());
    let until = until.map(|left| format!(", for {left} more unless it is extended")).unwrap_or_default();
    format!("{state}{}{until}", of_holder(holder))
}

/// The process that holds something, and for how long it has.
fn of_holder(holder: &Value) -> String {
    let by = match (holder["here"] == Value::Bool(true), text(&holder["process"])) {
        (true, _) => "this process".to_owned(),
        (false, process) if process.is_empty() => "another process".to_owned(),
        (false, process) => format!("the process {process}"),
    };
    let since = Some(millis(&holder["age_ms"])).filter(|age| !age.is_empty());
    let since = since.map(|age| format!(", for {age}")).unwrap_or_default();
    format!(" by {by}{since}")
}

/// The state of each tag of a key's entry, and the last decisions about the key.
fn tags_and_decisions(of: &Value) -> String {
    let mut shown = String::new();
    let tags = rows(&of["tags"], |tag| vec![text(&tag["name"]), text(&tag["change"]), moment(&tag["since"])]);
    if !tags.is_empty() {
        let _ = write!(shown, "\n{}", table(&["TAG", "STATE", "SINCE"], &tags));
    }
    let recent = rows(&of["recent"], |one| {
        vec![moment(&one["at"]), text(&one["result"]), micros(&one["duration_us"]), text(&one["reason"]["name"])]
    });
    if !recent.is_empty() {
        let _ = write!(shown, "\n{}", table(&["AT", "RESULT", "TOOK", "REASON"], &recent));
    }
    shown
}

/// An entry, and the head of the response in it, if there is one.
fn in_entry(entry: &Value, response: &Value) -> String {
    let deadlines = rows(&entry["deadlines"], |one| {
        let left = one["left"].as_i64().unwrap_or(0);
        let when = if left > 0 {
            format!("in {}", millis(&Value::from(left)))
        } else {
            format!("{} ago", millis(&Value::from(-left)))
        };
        vec![text(&one["name"]), when, moment(&one["at"])]
    });
    let codings =
        rows(&response["codings"], |one| vec![format!("{} ({})", text(&one["coding"]), bytes(&one["bytes"]))]);
    let facts = [
        ("status", text(&response["status"])),
        ("age", response["age"].as_u64().map(|age| format!("{age} s")).unwrap_or_default()),
        ("made", moment(&entry["made"])),
        ("body", bytes(&entry["bytes"])),
        ("codings", codings.concat().join(", ")),
        ("load took", millis(&entry["load_ms"])),
    ];
    let fields = rows(&response["headers"], |field| vec![text(&field[0]), text(&field[1])]);
    let fields = if fields.is_empty() { String::new() } else { format!("\n{}", table(&["FIELD", "VALUE"], &fields)) };
    format!("{}\n{}{fields}", list(&facts), table(&["ENDS", "WHEN", "AT"], &deadlines))
}

pub(crate) fn places(places: &Value) -> String {
    let place = |place: &Value| {
        let (entry, rejected) = (&place["entry"], text(&place["rejected"]));
        let found = match (entry.is_null(), rejected.is_empty()) {
            (false, _) => format!("in {}", text(&place["tier"])),
            (true, true) => "nothing is stored".to_owned(),
            (true, false) => format!("what is there is not used: {rejected}"),
        };
        let head = list(&[
            ("layer", text(&place["layer"])),
            ("key", text(&place["key"])),
            ("digest", text(&place["digest"])),
            ("found", found),
            ("lease", lease(&place["lease"])),
        ]);
        let entry = if entry.is_null() { String::new() } else { format!("\n{}", in_entry(entry, &place["response"])) };
        head + &entry + &tags_and_decisions(place)
    };
    places.as_array().into_iter().flatten().map(place).collect::<Vec<_>>().join("\n")
}

pub(crate) fn tag(tag: &Value) -> String {
    let state = if tag["change"].is_null() {
        "no token: nothing that carries it is used".to_owned()
    } else {
        text(&tag["change"])
    };
    let keys = keys(&tag["keys"], &tag["keys_error"]);
    let reload = reload(tag);
    list(&[
        ("tag", text(&tag["name"])),
        ("state", state),
        ("since", moment(&tag["since"])),
        ("keys", keys),
        ("to reload", reload),
    ])
}

/// The number of keys, and its error.
fn keys(number: &Value, error: &Value) -> String {
    match (number.is_null(), error.is_null()) {
        (true, _) => "not known: the store can't tell".to_owned(),
        (false, true) => text(number),
        (false, false) => format!("about {}, give or take {}", text(number), text(error)),
    }
}

/// The cost of loading the reached keys again.
fn reload(reached: &Value) -> String {
    if reached["reload_ms"].is_null() { String::new() } else { millis(&reached["reload_ms"]) }
}

pub(crate) fn purged(purged: &Value) -> String {
    let dry = purged["dry_run"] == Value::Bool(true);
    let matched = keys(&purged["matched"], &purged["matched_error"]);
    let done = match (dry, &purged["delivered"]) {
        (true, _) => "nothing was changed",
        (false, Value::Bool(true)) => "purged",
        (false, _) => "kept, to be retried: other processes may still serve it",
    };
    let what = format!("{} {}", text(&purged["kind"]), text(&purged["what"]));
    list(&[
        ("what", what),
        ("mode", text(&purged["mode"])),
        (if dry { "would reach" } else { "reached" }, matched),
        ("to reload", reload(purged)),
        ("", done.to_owned()),
        ("note", text(&purged["note"])),
        ("audit", text(&purged["id"])),
    ])
}

pub(crate) fn switches(switches: &Value) -> String {
    let shown = rows(switches, |one| {
        let state = match one["on"] == Value::Bool(true) {
            true => format!("on for {} more", millis(&one["left_ms"])),
            false => "off".to_owned(),
        };
        let rate = one["rate"].as_f64().map(|rate| format!(", at {rate}")).unwrap_or_default();
        let state = state + &rate;
        vec![text(&one["name"]), state, text(&one["does"])]
    });
    table(&["SWITCH", "IS", "WHILE IT IS ON"], &shown)
}

/// Who made a record of the audit, or had it made.
fn who(record: &Value) -> String {
    match (&record["by"], &record["actor"]) {
        (by, _) if by == "application" => "(application)".to_owned(),
        (_, Value::Null) => text(&record["from"]),
        (_, actor) => text(actor),
    }
}

pub(crate) fn audit(records: &Value) -> String {
    let shown = rows(records, |one| {
        let delivered = if one["delivered"] == Value::Bool(true) { "" } else { "not delivered yet" };
        let what = format!("{} {}", text(&one["kind"]), text(&one["what"]));
        vec![
            moment(&one["at"]),
            who(one),
            text(&one["mode"]),
            text(&one["matched"]),
            what,
            text(&one["reason"]),
            delivered.to_owned(),
        ]
    });
    table(&["AT", "WHO", "HOW", "KEYS", "WHAT", "WHY", ""], &shown)
}

pub(crate) fn patterns(told: &Value) -> String {
    let shown = rows(&told["patterns"], |one| {
        let by = &one["by"];
        let mode = match one["over_ms"].as_u64().filter(|over| *over > 0) {
            Some(_) => format!("{} over {}", text(&one["mode"]), millis(&one["over_ms"])),
            None => text(&one["mode"]),
        };
        let left = if one["left"].is_null() { String::new() } else { keys(&one["left"], &one["left_error"]) };
        vec![
            moment(&one["since"]),
            who(by),
            mode,
            text(&by["matched"]),
            left,
            text(&one["pattern"]),
            text(&by["reason"]),
        ]
    });
    if shown.is_empty() {
        return "no pattern is in force: whatever was deleted by one is swept\n".to_owned();
    }
    let sweeper = match &told["sweeper"] {
        Value::Null => "no process sweeps at this moment".to_owned(),
        sweeper => format!("swept{}", of_holder(sweeper)),
    };
    format!("{}\n{sweeper}\n", table(&["SINCE", "WHO", "HOW", "MATCHED", "LEFT", "PATTERN", "WHY"], &shown))
}

pub(crate) fn sizing(told: &Value) -> String {
    let ratio = |value: &Value| value.as_f64().map(|ratio| format!("{:.1} %", ratio * 100.0)).unwrap_or_default();
    // Each power of two: the API also has points in between.
    let now = told["bytes"].as_u64().unwrap_or(0).max(1) as f64;
    let points = told["points"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_power = |point: &&Value| {
        let power = (point["bytes"].as_f64().unwrap_or(now) / now).log2();
        (power - power.round()).abs() < 0.1
    };
    let shown: Vec<Vec<String>> = points
        .iter()
        .filter(is_power)
        .map(|point| vec![bytes(&point["bytes"]), text(&point["entries"]), ratio(&point["hit_ratio"])])
        .collect();
    if shown.is_empty() {
        return "too little is known yet\n".to_owned();
    }
    format!(
        "now: {}, {} entries, {}\n\n{}",
        bytes(&told["bytes"]),
        told["entries"],
        ratio(&told["hit_ratio"]),
        table(&["ROOM", "ENTRIES", "HIT RATIO"], &shown)
    )
}

pub(crate) fn top(top: &Value) -> String {
    let hottest = rows(&top["hottest"], |one| vec![text(&one["sum"]), text(&one["digest"]), text(&one["key"])]);
    let dearest = rows(&top["dearest"], |one| {
        vec![micros(&one["sum"]), text(&one["times"]), text(&one["digest"]), text(&one["key"])]
    });
    let (hot, dear) = (["LOOK-UPS", "DIGEST", "KEY"], ["WAITED", "MISSES", "DIGEST", "KEY"]);
    format!("{}\n{}", table(&hot, &hottest), table(&dear, &dearest))
}

pub(crate) fn decision(decision: &Value) -> String {
    let at = moment(&decision["at"]);
    let at = at.split_once(' ').map_or(&*at, |(_, time)| time.trim_end_matches('Z'));
    let tier = text(&decision["tier"]);
    let cells = [
        at.to_owned(),
        format!("{:9}", text(&decision["result"])),
        format!("{:6}", if tier == "none" { "" } else { &tier }),
        format!("{:>8}", micros(&decision["duration_us"])),
        printable(&text(&decision["key"])),
        text(&decision["reason"]["name"]),
    ];
    format!("{}\n", cells.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (millis, shown) in [
            (951_827_696_000_u64, "2000-02-29 12:34:56Z"),
            (1_795_940_000_000, "2026-11-29 08:13:20Z"),
            (4_102_444_799_999, "2099-12-31 23:59:59Z"),
            (1_000, "1970-01-01 00:00:01Z"),
        ] {
            assert_eq!(moment(&json!(millis)), shown);
        }
        assert_eq!(moment(&json!(0)), "");
    }

    #[test]
    fn a_terminal_is_not_told_what_a_key_says() {
        let shown = table(&["KEY", "TIMES"], &[vec!["\u{1b}[2Jgone".to_owned(), "1".to_owned()]]);
        assert_eq!(shown, "KEY       TIMES\n\u{fffd}[2Jgone  1\n");
        assert!(!decision(&json!({"key": "\u{1b}]0;x\u{7}", "result": "hit"})).contains('\u{1b}'));
    }

    #[test]
    fn a_value_is_explained_by_what_is_stored_and_has_no_cache_status() {
        let entry = json!({"made": 1_000, "bytes": 9, "load_ms": 3, "deadlines": [{"name": "fresh", "at": 2_000, "left": 1_000}]});
        let decided = json!({"at": 1_000, "result": "miss", "duration_us": 3_000, "reason": null});
        let told = json!({
            "verdict": "hit", "sentence": "It is there.", "cache_status": null, "is_final": true, "tier": "memory", "key": {"readable": "product:42"},
            "entry": null, "value": entry, "notes": [], "settings": [], "recent": [decided],
            "tags": [{"name": "t", "change": "created", "since": 1_000}],
        });
        let shown = explanation(&told);
        assert!(shown.starts_with("HIT: It is there.") && shown.contains("product:42"), "{shown}");
        for part in ["fresh  in 1.0 s", "t    created", "miss    3.0 ms", "body       9 B"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("Cache-Status") && !shown.contains("decides"), "{shown}");
        let response =
            json!({"status": 200, "codings": [{"coding": "zstd", "bytes": 5}], "headers": [["vary", "accept"]]});
        let place = json!([{"key": "http://a/x", "tier": "store", "entry": entry, "response": response, "tags": [], "recent": []}]);
        let shown = places(&place);
        for part in ["status     200", "codings    zstd (5 B)", "vary   accept"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn who_holds_a_lease_and_who_deleted_a_pattern_is_said() {
        let held = |holder: Value| lease(&json!({"state": "held", "holder": holder}));
        let elsewhere = json!({"process": "5f0c66d1", "here": false, "age_ms": 2_000, "left_ms": 8_000});
        assert_eq!(held(elsewhere), "held by the process 5f0c66d1, for 2.0 s, for 8.0 s more unless it is extended");
        let here = json!({"process": null, "here": true, "age_ms": null, "left_ms": null});
        assert_eq!(held(here.clone()), "held by this process");
        assert_eq!(lease(&json!({"state": "free"})), "free");
        let record =
            json!({"by": "method", "actor": "ada\u{1b}[2J", "reason": "wrong price", "matched": 3, "from": "10.0.0.7"});
        let listed = json!({
            "pattern": "a*", "mode": "soft", "over_ms": 60_000, "since": 1_000, "by": record, "left": 2, "left_error": 1
        });
        let unknown = json!({"pattern": "b*", "mode": "hard", "over_ms": 0, "since": 1_000, "by": null, "left": null});
        let shown = patterns(&json!({"patterns": [listed, unknown], "sweeper": here}));
        for part in ["ada\u{fffd}[2J", "soft over 60.0 s", "wrong price", "b*", "swept by this process\n"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(patterns(&json!({"patterns": [], "sweeper": null})).contains("no pattern is in force"));
    }

    #[test]
    fn numbers_have_units_that_fit() {
        assert_eq!(
            [json!(12), json!(1500), json!(2_000_000)].map(|value| micros(&value)),
            ["12 µs", "1.5 ms", "2.0 s"]
        );
        assert_eq!([json!(12), json!(2048), json!(3 << 20)].map(|value| bytes(&value)), ["12 B", "2.0 KiB", "3.0 MiB"]);
    }
}
