//! Requests URLs from an application, so that its cache has them before its users request them.

use std::{
    collections::HashMap,
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::client::Failure;

/// How long a response may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest pause between requests to an application that answers 429, and after such an answer, unless it says how long.
const SLOWEST: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_secs(1);
/// The longest that it is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The width of the bar in characters.
const WIDTH: usize = 30;

/// The requests to make, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Warm {
    /// A file with a URL in each line, or an access log (common or combined format), or - for standard input
    #[arg(value_name = "FILE")]
    from: std::path::PathBuf,
    /// Address of the application, if it differs from that in the URLs, which are then only named in Host
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The host for a log that contains only paths
    #[arg(long)]
    host: Option<String>,
    /// A field of each request, as "name: value"
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// Only this many URLs, the most frequent first
    #[arg(long, value_name = "NUMBER")]
    top: Option<usize>,
    /// Requests per second
    #[arg(long, default_value_t = 20.0, value_parser = rate)]
    rate: f64,
    /// Requests at one time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err("must be a number from 0.001 to 1000000".to_owned()),
    }
}

/// The results of the requests.
#[derive(Debug, Default)]
struct Outcome {
    asked: usize,
    /// The number of results by `Cache-Status`, or by error.
    results: HashMap<String, usize>,
    failed: usize,
    /// The error of the last request that had no response at all.
    unreachable: Option<String>,
    answered: bool,
    /// How long the application wants to be left alone, since the last request.
    wait: Option<Duration>,
}

/// The content of a line of the file.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Nothing,
    /// A URL, or the path of one.
    Target(String),
    /// A request whose response no cache stores, or that failed.
    Other,
    Unreadable,
}

impl Warm {
    /// Makes all requests. Returns the report and whether all succeeded; an error if nothing could be reached.
    pub(crate) async fn run(&self, as_json: bool) -> Result<(String, bool), Failure> {
        let (targets, unreadable) = self.targets()?;
        if targets.is_empty() {
            return Err(Failure::Usage(format!("{}: there is no URL in it", self.from.display())));
        }
        let requests = targets.iter().map(|target| self.request(target)).collect::<Result<Vec<_>, _>>()?;
        let outcome = self.ask(requests).await;
        if let (false, Some(why)) = (outcome.answered, &outcome.unreachable) {
            return Err(Failure::Unreachable(why.clone()));
        }
        Ok((outcome.shown(unreadable, as_json), outcome.failed == 0))
    }

    /// The URLs to request, the most frequent first, and the number of lines that can't be parsed.
    fn targets(&self) -> Result<(Vec<String>, usize), Failure> {
        let wrong = |error| Failure::Usage(format!("{}: {error}", self.from.display()));
        let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
        let mut unreadable = 0;
        for line in lines(&self.from).map_err(wrong)? {
            let line = line.map_err(wrong)?;
            match parse(&String::from_utf8_lossy(&line)) {
                Line::Nothing | Line::Other => {}
                Line::Target(target) if target.parse::<Uri>().is_ok() => {
                    let first = counts.len();
                    counts.entry(target).or_insert((0, first)).0 += 1;
                }
                Line::Unreadable | Line::Target(_) => unreadable += 1,
            }
        }
        let mut targets: Vec<_> = counts.into_iter().collect();
        targets.sort_by_key(|(_, (times, first))| (std::cmp::Reverse(*times), *first));
        targets.truncate(self.top.unwrap_or(usize::MAX));
        Ok((targets.into_iter().map(|(target, _)| target).collect(), unreadable))
    }

    fn request(&self, target: &str) -> Result<Request<Empty<Bytes>>, Failure> {
        let uri: Uri = target.parse().map_err(|error| Failure::Usage(format!("{target}: {error}")))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri.authority().map(ToString::to_string).or_else(|| self.host.clone());
        let to = match (&self.to, uri.scheme_str()) {
            (Some(to), _) => format!("{}{path}", to.trim_end_matches('/')),
            (None, Some("http")) => target.to_owned(),
            (None, Some(_)) => {
                return Err(Failure::Usage(format!(
                    "{target}: only http:// is spoken here; name the application itself with --to http://HOST:PORT"
                )));
            }
            (None, None) => {
                return Err(Failure::Usage(format!("{target}: a path needs --to http://HOST:PORT")));
            }
        };
        let mut request =
            Request::builder().uri(&to).body(Empty::new()).map_err(|error| Failure::Usage(error.to_string()))?;
        if request.uri().scheme_str() != Some("http") {
            return Err(Failure::Usage(format!("{to}: must be a URL with http://")));
        }
        *request.headers_mut() = self.fields()?;
        if let Some(host) = host {
            let host = HeaderValue::from_str(&host)
                .map_err(|_| Failure::Usage(format!("--host {host}: must be a valid value of Host")))?;
            request.headers_mut().insert(header::HOST, host);
        }
        Ok(request)
    }

    fn fields(&self) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        for line in &self.headers {
            // The value may be a secret, and is not repeated.
            let wrong = || Failure::Usage("--header: must be \"name: value\"".to_owned());
            let (name, value) = line.split_once(':').ok_or_else(wrong)?;
            let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
            headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?);
        }
        Ok(headers)
    }

    async fn ask(&self, requests: Vec<Request<Empty<Bytes>>>) -> Outcome {
        let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let (began, all) = (Instant::now(), requests.len());
        let (mut next, mut pace) = (began, Duration::from_secs_f64(1.0 / self.rate));
        let (mut asking, mut outcome) = (JoinSet::new(), Outcome::default());
        let bar = Bar { is_shown: std::io::stderr().is_terminal(), all, began };
        for request in requests {
            while let Some(answer) = asking.try_join_next() {
                outcome.add(joined(answer));
            }
            while asking.len() >= self.at_once.into() {
                let Some(answer) = asking.join_next().await else { break };
                outcome.add(joined(answer));
            }
            // An application that has enough of requests gets half as many from then on.
            if let Some(wait) = outcome.wait.take() {
                (pace, next) = ((pace * 2).min(SLOWEST.max(pace)), Instant::now() + wait);
            }
            bar.show(&outcome);
            sleep_until(next).await;
            next = Instant::now() + pace;
            let client = client.clone();
            asking.spawn(async move { ask_for(&client, request).await });
        }
        while let Some(answer) = asking.join_next().await {
            outcome.add(joined(answer));
            bar.show(&outcome);
        }
        bar.end();
        outcome
    }
}

fn joined(answer: Result<Result<Answer, String>, JoinError>) -> Result<Answer, String> {
    answer.unwrap_or_else(|error| Err(error.to_string()))
}

fn lines(file: &Path) -> std::io::Result<Box<dyn Iterator<Item = std::io::Result<Vec<u8>>>>> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(std::io::BufReader::new(std::io::stdin()).split(b'\n')));
    }
    Ok(Box::new(std::io::BufReader::new(std::fs::File::open(file)?).split(b'\n')))
}

/// A line of a list, or of a log: `host - user [time] "GET /path HTTP/1.1" 200 …`.
fn parse(line: &str) -> Line {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Line::Nothing;
    }
    if !line.contains(char::is_whitespace) && (line.starts_with('/') || line.contains("://")) {
        return Line::Target(line.to_owned());
    }
    let Some((request, rest)) = line.split_once('"').and_then(|(_, rest)| rest.split_once('"')) else {
        return Line::Unreadable;
    };
    let mut words = request.split(' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Line::Unreadable;
    };
    let status = rest.split_whitespace().next().and_then(|status| status.parse::<u16>().ok());
    match status {
        _ if !version.starts_with("HTTP/") => Line::Unreadable,
        None => Line::Unreadable,
        // A request that failed then is not wanted now; and the log does not say to which host a redirected client went.
        Some(200..=399) if method == "GET" && target.starts_with('/') => Line::Target(target.to_owned()),
        Some(_) => Line::Other,
    }
}

/// What the cache says about a request, or why there is no response.
async fn ask_for(
    client: &Client<HttpConnector, Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, String> {
    let answer = async {
        let uri = request.uri().clone();
        let response = client.request(request).await.map_err(|error| {
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            format!("{uri}: {why}")
        })?;
        let (parts, mut body) = response.into_parts();
        // Read to the end: an incomplete body is not stored.
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| format!("{uri}: {error}"))?;
        }
        let after = parts.headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let wait = after.map_or(A_WHILE, Duration::from_secs).min(LONGEST_WAIT);
        let wait = (parts.status == StatusCode::TOO_MANY_REQUESTS).then_some(wait);
        Ok(Answer { status: parts.status, said: said(&parts.headers), wait })
    };
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}

struct Answer {
    status: StatusCode,
    said: String,
    /// How long the application wants to be left alone, if it has enough of requests.
    wait: Option<Duration>,
}

/// The last member of `Cache-Status`, in a word or two.
fn said(headers: &HeaderMap) -> String {
    let line =
        headers.get_all("cache-status").iter().next_back().and_then(|line| line.to_str().ok()).unwrap_or_default();
    let member = parts(line, ',').pop().unwrap_or_default();
    let parameters: Vec<&str> = parts(member, ';').into_iter().map(str::trim).skip(1).collect();
    let detail = parameters.iter().find_map(|parameter| parameter.strip_prefix("detail="));
    match detail {
        _ if parameters.contains(&"hit") => "there already".to_owned(),
        _ if parameters.contains(&"stored") => "stored".to_owned(),
        Some(reason) => format!("not stored: {reason}"),
        None if parameters.is_empty() => "no cache said anything".to_owned(),
        None => "not stored".to_owned(),
    }
}

/// The parts between separators; separators within a string (RFC 9651) don't count.
fn parts(text: &str, separator: char) -> Vec<&str> {
    let (mut in_string, mut escaped) = (false, false);
    let separates = |character: char| {
        let quote = character == '"' && !escaped;
        escaped = in_string && character == '\\' && !escaped;
        in_string ^= quote;
        !in_string && character == separator
    };
    text.split(separates).collect()
}

impl Outcome {
    fn add(&mut self, answer: Result<Answer, String>) {
        self.asked += 1;
        let result = match answer {
            Ok(answer) => {
                self.answered = true;
                // What is not there, under a host that is none of the application's, for example, warms nothing.
                let has_failed = answer.status.is_client_error() || answer.status.is_server_error();
                self.failed += usize::from(has_failed);
                self.wait = answer.wait.or(self.wait);
                if has_failed { format!("failed: {}", answer.status.as_u16()) } else { answer.said }
            }
            Err(why) => {
                self.failed += 1;
                self.unreachable = Some(why);
                "failed: no answer".to_owned()
            }
        };
        *self.results.entry(result).or_default() += 1;
    }

    fn shown(&self, unreadable: usize, as_json: bool) -> String {
        let mut results: Vec<_> = self.results.iter().collect();
        results.sort_by_key(|(name, times)| (std::cmp::Reverse(**times), (*name).clone()));
        if as_json {
            let results: Vec<Value> =
                results.iter().map(|(name, times)| json!({"result": name, "times": times})).collect();
            let told =
                json!({"asked": self.asked, "failed": self.failed, "unreadable_lines": unreadable, "results": results});
            return format!("{told:#}\n");
        }
        let rows: Vec<Vec<String>> =
            results.iter().map(|(name, times)| vec![times.to_string(), (*name).clone()]).collect();
        let mut shown = super::show::table(&["REQUESTS", "RESULT"], &rows);
        if unreadable > 0 {
            shown += &format!("{unreadable} lines are no URL and no request\n");
        }
        if let Some(why) = &self.unreachable {
            shown += &format!("the last that had no answer: {why}\n");
        }
        shown
    }
}

/// A progress bar, on a terminal.
struct Bar {
    is_shown: bool,
    all: usize,
    began: Instant,
}

impl Bar {
    fn show(&self, outcome: &Outcome) {
        if self.is_shown {
            eprint!("\r{}", self.text(outcome, self.began.elapsed()));
            let _ = std::io::stderr().flush();
        }
    }

    fn text(&self, outcome: &Outcome, taken: Duration) -> String {
        let done = outcome.asked * WIDTH / self.all.max(1);
        let stored = outcome.results.get("stored").copied().unwrap_or(0);
        let failed = if outcome.failed > 0 { format!(", {} failed", outcome.failed) } else { String::new() };
        let (bar, seconds) = ("#".repeat(done), taken.as_secs());
        format!("[{bar:WIDTH$}] {}/{}, {stored} stored{failed}, {seconds} s ", outcome.asked, self.all)
    }

    fn end(&self) {
        if self.is_shown {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_url_or_a_request_of_a_log() {
        let target = |text: &str| Line::Target(text.to_owned());
        let combined = r#"10.0.0.7 - - [10/Oct/2026:13:55:36 +0000] "GET /a?b=1 HTTP/1.1" 200 2326 "-" "curl/8""#;
        for (line, expected) in [
            ("http://shop.example/a", target("http://shop.example/a")),
            ("  /a?b=1 ", target("/a?b=1")),
            ("# a comment", Line::Nothing),
            ("", Line::Nothing),
            (combined, target("/a?b=1")),
            (&combined.replace("GET", "POST"), Line::Other),
            (&combined.replace(" 200 ", " 503 "), Line::Other),
            (&combined.replace(" 200 ", " 304 "), target("/a?b=1")),
            (&combined.replace("/a?b=1", "http://other.example/"), Line::Other),
            (r#"10.0.0.7 - - [x] "\x16\x03" 400 0"#, Line::Unreadable),
            ("shop.example", Line::Unreadable),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn what_the_cache_says_is_a_word_or_two() {
        let said = |line: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("cache-status", HeaderValue::from_static(line));
            said(&headers)
        };
        assert_eq!(said("outer; fwd=miss, cache-layer; hit; ttl=5"), "there already");
        assert_eq!(said("cache-layer; fwd=uri-miss; stored"), "stored");
        assert_eq!(said(r#"cache-layer; fwd=uri-miss; stored; key="a, \"b; hit""#), "stored");
        assert_eq!(said("cache-layer; fwd=uri-miss; detail=private"), "not stored: private");
        assert_eq!(super::said(&HeaderMap::new()), "no cache said anything");
    }

    #[test]
    fn the_bar_says_how_far_it_is() {
        let bar = Bar { is_shown: false, all: 3, began: Instant::now() };
        let mut outcome = Outcome::default();
        outcome.add(Ok(Answer { status: StatusCode::OK, said: "stored".to_owned(), wait: None }));
        outcome.add(Err("gone".to_owned()));
        let text = bar.text(&outcome, Duration::from_secs(2));
        assert!(text.starts_with("[####################          ] 2/3, 1 stored, 1 failed, 2 s"), "{text}");
    }
}
