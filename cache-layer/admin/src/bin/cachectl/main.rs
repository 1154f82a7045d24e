//! A client for the operator's API of an application with `cache-layer`; it can also check the Redis of a cache directly.

mod client;
mod doctor;
mod servers;
mod show;
mod warm;

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde_json::{Value, json};

use self::client::{Client, Failure, encoded};

/// See what a cache does, have its decisions explained, and purge.
///
/// All commands but `doctor` ask the operator's API of an application. Exit codes: 0 for success; 1 if something failed, or
/// `doctor` has found a problem; 2 for a wrong command line; 3 if the API refuses; 4 if it can't be reached.
#[derive(Debug, Parser)]
#[command(name = "cachectl", version, propagate_version = true)]
struct Arguments {
    /// Address of the operator's API
    #[arg(long, global = true, env = "CACHECTL_URL", value_name = "URL", default_value = "http://127.0.0.1:9090")]
    api: String,

    /// A file with the token, in its first line; without one, a client on the same machine may read
    #[arg(long, global = true, env = "CACHECTL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Print the API's JSON
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The state of the cache: now, and in the last minute, quarter of an hour and day
    Status,
    /// What the cache would do with a request, or a call for a value, and why
    Explain {
        /// An absolute URL
        #[arg(required_unless_present_any = ["key", "digest"])]
        url: Option<String>,
        /// In place of a URL, a part of one of the application's own keys, once for each part
        #[arg(long, conflicts_with_all = ["url", "digest"])]
        key: Vec<String>,
        /// In place of a URL, the digest of a key that was asked for lately, as `top` shows it
        #[arg(long, conflicts_with = "url")]
        digest: Option<String>,
        /// The method
        #[arg(
            short = 'X',
            long,
            default_value = "GET",
            default_value_if("content", clap::builder::ArgPredicate::IsPresent, "QUERY")
        )]
        method: String,
        /// A field of the request, as "name: value"
        #[arg(short = 'H', long = "header", value_name = "FIELD")]
        headers: Vec<String>,
        /// A file with the content of the request, or - for standard input
        #[arg(long, value_name = "FILE")]
        content: Option<PathBuf>,
        /// A hint of an outer layer for the request: bypass, refresh, ttl:SECONDS or key-part:TEXT
        #[arg(long = "hint", value_name = "HINT")]
        hints: Vec<String>,
        /// The layer, if there are several
        #[arg(long)]
        layer: Option<String>,
        /// The status of the application's response
        #[arg(long)]
        status: Option<u16>,
        /// A field of that response, as "name: value"
        #[arg(long = "response-header", value_name = "FIELD")]
        response_headers: Vec<String>,
    },
    /// What is stored for a URL, or for one of the application's own keys
    Entry {
        /// An absolute URL
        #[arg(required_unless_present_any = ["key", "digest"])]
        url: Option<String>,
        /// A part of one of the application's own keys, once for each part
        #[arg(long, conflicts_with_all = ["url", "digest"])]
        key: Vec<String>,
        /// The digest of a key that was asked for lately, as `top` shows it
        #[arg(long, conflicts_with = "url")]
        digest: Option<String>,
        /// For a URL, a hint of an outer layer: key-part:TEXT
        #[arg(long = "hint", value_name = "HINT", requires = "url")]
        hints: Vec<String>,
    },
    /// What is known of a tag
    Tag {
        /// The tag
        tag: String,
    },
    /// Make entries void, or stale
    Purge {
        /// The kind of thing to purge
        kind: Kind,
        /// The URL, key, tag, pattern or group; nothing for all
        #[arg(required_unless_present_any = ["all"])]
        what: Option<String>,
        /// For a group: its origin, such as https://shop.example
        #[arg(long)]
        origin: Option<String>,
        /// Make entries stale, so that they are used where that is allowed, rather than void
        #[arg(long)]
        soft: bool,
        /// Make entries stale one after the other, over this time: 60s, 10m, 2h
        #[arg(long, value_name = "TIME", value_parser = seconds, requires = "soft")]
        over: Option<u64>,
        /// Only show what would be reached
        #[arg(long)]
        dry_run: bool,
        /// Who purges, for the audit
        #[arg(long, env = "USER", value_name = "NAME")]
        actor: Option<String>,
        /// Why, for the audit
        #[arg(long)]
        reason: Option<String>,
        /// An idempotency key of up to 200 characters: a purge that is sent again with the same key is carried out once, and
        /// answered as before; a random one unless given
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        /// Confirm that everything should be purged
        #[arg(long, hide = true)]
        all: bool,
    },
    /// Who purged what, when and why
    Audit {
        /// Only purges (api), or only the application's own invalidations
        #[arg(long, value_parser = ["api", "method", "application"])]
        by: Option<String>,
    },
    /// Deleted patterns that are in force, and not swept yet
    Patterns {
        /// Count what is left of each, in a few seconds
        #[arg(long)]
        count: bool,
    },
    /// Settings that are turned off or on for a while in the whole fleet; with a name, turns one
    Switch {
        /// The switch: bypass-reads, stop-fills, first-tier-off, wider-grace or verification-rate
        name: Option<String>,
        /// How long it is on, such as 90s, 10m or 2h, up to a day
        #[arg(long = "for", value_name = "TIME", value_parser = seconds_of_a_switch, requires = "name")]
        on_for: Option<u64>,
        /// For verification-rate: the share of the hits that is verified, from 0 (none) to 1; 0.01 unless given
        #[arg(long, value_name = "RATE", value_parser = rate, requires = "on_for", conflicts_with = "off")]
        rate: Option<f64>,
        /// Turn it off
        #[arg(long, conflicts_with = "on_for", requires = "name")]
        off: bool,
        /// Turn the switch in that process alone, even if Redis does not answer
        #[arg(long, requires = "name")]
        here: bool,
        /// Who turns it, for the audit
        #[arg(long, env = "USER", value_name = "NAME")]
        actor: Option<String>,
        /// Why, for the audit
        #[arg(long)]
        reason: Option<String>,
    },
    /// How the hit ratio depends on the size of the memory, if the application estimates it
    Sizing,
    /// The keys that are asked for most, and those whose misses took longest
    Top {
        /// How many keys of each kind
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Decisions as they happen, until interrupted
    Tail {
        /// Only keys that contain this
        #[arg(long)]
        path: Option<String>,
        /// Only this result: hit, stale, miss, bypass and so on
        #[arg(long)]
        result: Option<String>,
        /// Only this reason
        #[arg(long)]
        reason: Option<String>,
        /// The share of the decisions to show, above 0 and at most 1
        #[arg(long)]
        sample: Option<f64>,
        /// End after this many decisions
        #[arg(long)]
        count: Option<usize>,
    },
    /// Request URLs from an application, so that its cache has them before its users ask
    Warm(warm::Warm),
    /// Check the Redis behind a cache directly, and say what to do about each problem
    Doctor {
        /// The URL of the Redis or Valkey, as in the application's setting
        #[arg(long, env = "CACHECTL_REDIS_URL", value_name = "URL", hide_env_values = true)]
        redis: String,
        /// The prefix of the cache's keys
        #[arg(long, default_value = "cache")]
        prefix: String,
        /// For rediss://, a file with the certificates to trust, in PEM; without it, those of the system, or of SSL_CERT_FILE and
        /// SSL_CERT_DIR
        #[arg(long, value_name = "FILE")]
        tls_ca: Option<PathBuf>,
    },
    /// The man page of cachectl, or of one of its commands, for man to read
    Man {
        /// The command
        command: Option<String>,
    },
    /// Completions for a shell, which evaluates them
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The kind of thing that is purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Url,
    Tag,
    Pattern,
    Group,
    All,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse_from(with_all_confirmed(std::env::args()));
    match run(&arguments).await {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("cachectl: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// `purge all` takes no further argument.
fn with_all_confirmed(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut arguments: Vec<String> = arguments.collect();
    if arguments.windows(2).any(|pair| pair == ["purge", "all"]) {
        arguments.push("--all".to_owned());
    }
    arguments
}

async fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    match &arguments.command {
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "cachectl", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { command } => {
            print(&String::from_utf8_lossy(&man(command.as_deref())?))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Warm(warm) => {
            let (shown, well) = warm.run(arguments.json).await?;
            print(&shown)?;
            Ok(ExitCode::from(u8::from(!well)))
        }
        Command::Doctor { redis, prefix, tls_ca } => {
            let trusted = tls_ca.as_deref().map(content_of).transpose()?;
            let findings = doctor::examine(redis, prefix, trusted.as_deref()).await;
            print(&doctor::shown(&findings, arguments.json))?;
            Ok(ExitCode::from(u8::from(doctor::is_bad(&findings))))
        }
        command => {
            let client = Client::new(&arguments.api, arguments.token_file.as_deref())?;
            ask(&client, command, arguments.json).await
        }
    }
}

async fn ask(client: &Client, command: &Command, as_json: bool) -> Result<ExitCode, Failure> {
    let path = match command {
        Command::Purge { .. } => return purge(client, command, as_json).await,
        Command::Tail { .. } => return tail(client, command, as_json).await,
        Command::Switch { name: Some(name), on_for, rate, off, here, actor, reason } => {
            if on_for.is_none() && !off {
                return Err(Failure::Usage("one of --for, for how long, and --off must be given".to_owned()));
            }
            let seconds = on_for.unwrap_or(0);
            let body = json!({
                "switch": name, "seconds": seconds, "rate": rate, "here": here, "actor": actor, "reason": reason
            });
            let answer = client.post("/api/switches", "application/json", body.to_string()).await?;
            print(&if as_json { pretty(&answer) } else { show::switches(&answer) })?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Switch { name: None, .. } => "/api/switches".to_owned(),
        Command::Status => "/api/stats".to_owned(),
        Command::Sizing => "/api/sizing".to_owned(),
        Command::Tag { tag } => format!("/api/tag/{}", encoded(tag)),
        Command::Top { limit } => format!("/api/top?limit={limit}"),
        Command::Audit { by } => query("/api/audit", &[("by", by.as_deref())]),
        Command::Patterns { count } => query("/api/patterns", &[("count", count.then_some("true"))]),
        Command::Entry { url, key, digest, hints } => {
            let mut pairs = vec![("url", url.as_deref()), ("digest", digest.as_deref())];
            pairs.extend(key.iter().map(|part| ("key", Some(part.as_str()))));
            pairs.extend(hints.iter().map(|hint| ("hint", Some(hint.as_str()))));
            query("/api/entry", &pairs)
        }
        Command::Explain { url: None, key, digest, .. } => {
            let mut pairs = vec![("digest", digest.as_deref())];
            pairs.extend(key.iter().map(|part| ("key", Some(part.as_str()))));
            query("/api/explain", &pairs)
        }
        Command::Explain { url: Some(url), method, headers, layer, status, response_headers, hints, .. } => {
            let status = status.map(|status| status.to_string());
            let mut pairs = vec![
                ("url", Some(url.as_str())),
                ("method", Some(method.as_str())),
                ("layer", layer.as_deref()),
                ("status", status.as_deref()),
            ];
            pairs.extend(headers.iter().map(|field| ("header", Some(field.as_str()))));
            pairs.extend(response_headers.iter().map(|field| ("response_header", Some(field.as_str()))));
            pairs.extend(hints.iter().map(|hint| ("hint", Some(hint.as_str()))));
            query("/api/explain", &pairs)
        }
        Command::Doctor { .. } | Command::Completions { .. } | Command::Warm(_) | Command::Man { .. } => {
            return Ok(ExitCode::SUCCESS);
        }
    };
    let answer = match command {
        Command::Explain { url: Some(_), content: Some(file), .. } => {
            client.post(&path, "application/octet-stream", content_of(file)?).await?
        }
        _ => client.get(&path).await?,
    };
    let text = match command {
        _ if as_json => pretty(&answer),
        Command::Status => show::status(&answer),
        Command::Top { .. } => show::top(&answer),
        Command::Sizing => show::sizing(&answer),
        Command::Switch { .. } => show::switches(&answer),
        Command::Audit { .. } => show::audit(&answer),
        Command::Patterns { .. } => show::patterns(&answer),
        Command::Tag { .. } => show::tag(&answer),
        Command::Entry { .. } => show::places(&answer),
        _ => show::explanation(&answer),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The page of cachectl, or of one of its commands.
fn man(command: Option<&str>) -> Result<Vec<u8>, Failure> {
    let mut all = Arguments::command();
    all.build();
    let of = match command {
        None => all,
        Some(name) => {
            all.find_subcommand(name).cloned().ok_or_else(|| Failure::Usage(format!("{name}: unknown command")))?
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(of).render(&mut page).map_err(|error| Failure::Broken(error.to_string()))?;
    Ok(page)
}

fn content_of(file: &Path) -> Result<Vec<u8>, Failure> {
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().lock().bytes().collect(),
        false => std::fs::read(file),
    };
    read.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}

/// A time with its unit, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let seconds = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    seconds.ok_or_else(|| "must be a time such as 60s, 10m, 2h or 1d".to_owned())
}

/// As [`seconds`], up to the longest time for a switch.
fn seconds_of_a_switch(text: &str) -> Result<u64, String> {
    match seconds(text)? {
        seconds @ 1..=86_400 => Ok(seconds),
        _ => Err("must be at least a second, and a day at most".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| "must be a number from 0 to 1, such as 0.01".to_owned())
}

/// A path with those of the pairs that have a value.
fn query(path: &str, pairs: &[(&str, Option<&str>)]) -> String {
    let pairs = pairs.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded((*value)?))));
    match pairs.collect::<Vec<_>>().join("&") {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

async fn purge(client: &Client, command: &Command, as_json: bool) -> Result<ExitCode, Failure> {
    let Command::Purge { kind, what, origin, soft, over, dry_run, actor, reason, idempotency_key, .. } = command else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut body = json!({
        "mode": if *soft { "soft" } else { "hard" },
        "over": over,
        "dry_run": dry_run,
        "actor": actor,
        "reason": reason,
        "origin": origin,
    });
    let (name, value) = match kind {
        Kind::Url => ("url", json!(what)),
        Kind::Tag => ("tag", json!(what)),
        Kind::Pattern => ("pattern", json!(what)),
        Kind::Group => ("group", json!(what)),
        Kind::All if what.is_some() => return Err(Failure::Usage("purge all takes no further argument".to_owned())),
        Kind::All => ("all", json!(true)),
    };
    body[name] = value;
    let key = idempotency_key.clone().unwrap_or_else(random_key);
    let answer = client.post_once("/api/purge", &key, "application/json", body.to_string()).await;
    let answer = answer.map_err(|failure| match dry_run {
        true => failure,
        // It may be under way, or done.
        false => failure.also(&format!("sent again with --idempotency-key {key}, it purges once")),
    })?;
    print(&if as_json { pretty(&answer) } else { show::purged(&answer) })?;
    // The purge is kept and retried, and other processes may still serve what it covers.
    Ok(ExitCode::from(u8::from(answer["delivered"] != Value::Bool(true))))
}

/// 128 random bits.
fn random_key() -> String {
    let random = |_| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::time::Instant::now());
    [0, 1].map(random).map(|half| format!("{half:016x}")).concat()
}

async fn tail(client: &Client, command: &Command, as_json: bool) -> Result<ExitCode, Failure> {
    let Command::Tail { path, result, reason, sample, count } = command else { return Ok(ExitCode::SUCCESS) };
    let sample = sample.map(|sample| sample.to_string());
    let target = query(
        "/api/live",
        &[
            ("path", path.as_deref()),
            ("result", result.as_deref()),
            ("reason", reason.as_deref()),
            ("sample", sample.as_deref()),
        ],
    );
    let mut seen = 0;
    let ended = client.watch(&target, |kind, data| {
        if kind == "missed" {
            eprintln!("cachectl: {data} decisions were missed");
            return Ok(true);
        }
        match serde_json::from_str::<Value>(data) {
            Ok(decision) if as_json => print(&format!("{decision}\n"))?,
            Ok(decision) => print(&show::decision(&decision))?,
            Err(_) => return Ok(true),
        }
        seen += 1;
        Ok(count.is_none_or(|count| seen < count))
    });
    ended.await.map(|()| ExitCode::SUCCESS)
}

fn pretty(answer: &Value) -> String {
    format!("{answer:#}\n")
}

/// A reader that has closed the pipe is not an error.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::Broken(format!("standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn everything_is_purged_only_by_name() {
        let parse = |line: &str| {
            let words = line.split(' ').map(str::to_owned);
            Arguments::try_parse_from(with_all_confirmed(words)).is_ok()
        };
        assert!(parse("cachectl purge all") && parse("cachectl purge tag t --soft"));
        assert!(parse("cachectl purge tag t --soft --over 60s") && !parse("cachectl purge tag t --over 60s"));
        assert!(parse("cachectl purge all --soft --over 10m") && !parse("cachectl purge tag t --soft --over soon"));
        assert!(!parse("cachectl purge tag") && !parse("cachectl purge") && !parse("cachectl purge everything"));
    }

    #[test]
    fn each_purge_has_a_key_of_its_own() {
        let keys: std::collections::HashSet<String> = (0..1000).map(|_| random_key()).collect();
        assert_eq!((keys.len(), keys.iter().all(|key| key.len() == 32)), (1000, true));
    }

    #[test]
    fn a_time_has_its_unit_and_an_end() {
        assert_eq!(
            [seconds_of_a_switch("90s"), seconds_of_a_switch("10m"), seconds_of_a_switch("24h")],
            [Ok(90), Ok(600), Ok(86_400)]
        );
        for wrong in ["", "10", "s", "0s", "25h", "2d", "-1s", "1ü"] {
            assert!(seconds_of_a_switch(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_a_share() {
        assert_eq!([rate("0"), rate("0.25"), rate("1")], [Ok(0.0), Ok(0.25), Ok(1.0)]);
        for wrong in ["", "-0.1", "1.1", "NaN", "inf", "5%"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).is_ok();
        assert!(parse("cachectl switch verification-rate --for 10m --rate 0.05"));
        assert!(!parse("cachectl switch verification-rate --off --rate 0.05"));
    }

    #[test]
    fn a_query_has_what_there_is_and_says_it_so_that_it_is_read_back() {
        assert_eq!(query("/a", &[("x", None)]), "/a");
        assert_eq!(
            query("/a", &[("x", Some("1&2=3 #é")), ("y", None), ("z", Some(""))]),
            "/a?x=1%262%3D3%20%23%C3%A9&z="
        );
    }
}
