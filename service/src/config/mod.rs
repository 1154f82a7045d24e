//! The settings, from `APP_*` variables and flags, and their errors.
//!
//! A flag and its variable share their name: `--redis-url` is `APP_REDIS_URL`. The flag wins.

mod cache_encode;
mod cache_paths;
mod cache_rules;
mod purge_paths;
mod quantity;
mod secret_file;
mod secret_url;
mod token_file;

use std::{
    error::Error as _,
    ffi::OsString,
    fmt::{self, Write as _},
    net::SocketAddr,
    str::FromStr,
    time::Duration,
};

use axum::http::HeaderName;
use clap::{
    Arg, CommandFactory, FromArgMatches, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use sqlx::{postgres::PgConnectOptions, sqlite::SqliteConnectOptions};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

pub use self::{
    cache_encode::CacheEncode, cache_paths::CachePaths, cache_rules::CacheRules, purge_paths::PurgePaths,
    secret_file::Password, secret_url::SecretUrl, token_file::TokenFile,
};

/// A product-catalogue API with an HTTP cache in front.
///
/// Every option can be given as an environment variable as well. Times are written as 250ms, 30s,
/// 5m, 1h or plain seconds; sizes as 512KiB, 64MiB, 1GiB or plain bytes.
#[derive(Clone, Debug, Parser)]
#[command(name = "service", version, args_override_self = true)]
pub struct Config {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000", value_parser = listen)]
    pub listen: SocketAddr,

    /// Database of the products: sqlite://FILE (created if missing) or postgres://USER:PASSWORD@HOST/NAME
    #[arg(long, value_name = "URL", default_value = "sqlite://products.db", value_parser = database_url)]
    pub database_url: SecretUrl,

    /// A file that contains the URL of the database, instead of --database-url
    #[arg(long, value_name = "FILE", value_parser = |path: &str| database_url(&secret_file::read(path)?), conflicts_with = "database_url")]
    pub database_url_file: Option<SecretUrl>,

    /// The most connections to the database
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = |text: &str| quantity::count(text, 1..=1000))]
    pub database_connections: u32,

    /// Redis or Valkey for the cache: redis:// or valkey://, rediss://, unix://, redis+sentinel:// or redis+cluster://; without
    /// it, the cache is in this process's memory
    #[arg(long, value_name = "URL", value_parser = redis_url)]
    pub redis_url: Option<SecretUrl>,

    /// A file that contains the URL of Redis, instead of --redis-url
    #[arg(long, value_name = "FILE", value_parser = |path: &str| redis_url(&secret_file::read(path)?), conflicts_with = "redis_url")]
    pub redis_url_file: Option<SecretUrl>,

    /// A file that contains the password for Redis, for a URL without one
    #[arg(long, value_name = "FILE", value_parser = |path: &str| secret_file::read(path).map(Password::from))]
    pub redis_password_file: Option<Password>,

    /// Connections to Redis; each carries many commands at once
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = |text: &str| quantity::count(text, 1..=64))]
    pub redis_connections: u32,

    /// How long a command to Redis may take before the request continues without the cache
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = redis_timeout)]
    pub redis_timeout: Duration,

    /// Whether to cache: on or off; without a cache, Redis is not connected to, and every request reads the database
    #[arg(long, value_name = "SWITCH", default_value = "on")]
    pub cache: CacheSwitch,

    /// The first part of every key in Redis; services with the same prefix share their cache
    #[arg(long, value_name = "NAME", default_value = "service", value_parser = cache_prefix)]
    pub cache_prefix: String,

    /// Size of the cache in memory, if there is no Redis
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = quantity::bytes)]
    pub cache_memory: u64,

    /// Size of a first tier in memory in front of Redis, 0 for none; a write through another process takes effect there a moment
    /// later
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = quantity::bytes_or_none)]
    pub cache_first_tier: u64,

    /// With a first tier: for how many keys hits are counted, 0 for none; the list of the hottest is stored in Redis for processes
    /// that start
    #[arg(long, value_name = "COUNT", default_value = "4096", value_parser = |text: &str| quantity::count(text, 0..=65_536))]
    pub cache_hot_keys: u32,

    /// With a first tier: how long the start may take to fetch the hottest entries of other processes, 0 for not at all
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = warm_time)]
    pub cache_warm: Duration,

    /// How often Redis is searched for entries that invalidations have made void, to give their room back, 0 for never
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = reclaim_time)]
    pub cache_reclaim: Duration,

    /// Paths to cache, with everything below them, as PATH or PATH=TIME
    #[arg(long, value_name = "PATHS", default_value = "/api/products=60s,/api/categories=60s")]
    pub cache_paths: CachePaths,

    /// A file of rules for some of the requests, in TOML, reloaded on SIGHUP; see docs/service.md
    #[arg(long, value_name = "FILE", value_parser = |path: &str| CacheRules::read(path))]
    pub cache_rules: Option<CacheRules>,

    /// How long responses are stored for a path that has no time of its own
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = quantity::positive_time)]
    pub cache_default_ttl: Duration,

    /// How long a request waits for another request that loads the same response
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = quantity::positive_time)]
    pub cache_lock_timeout: Duration,

    /// The largest response body to store
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = quantity::bytes)]
    pub cache_max_body: u64,

    /// Content codings in which responses are stored, each encoded once: off, or some of zstd, br and gzip, the preferred one
    /// first
    #[arg(long, value_name = "CODINGS", default_value = "zstd,gzip")]
    pub cache_encode: CacheEncode,

    /// The share of the hits that is loaded again in the background, to see whether it is still the same: from 0, none, to 1
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = quantity::share)]
    pub cache_verify: f64,

    /// Request fields with credentials besides Authorization, with commas between them: responses to requests that have one are
    /// stored only if they say that they may be shared
    #[arg(long, value_name = "FIELDS", value_delimiter = ',', value_parser = field)]
    pub cache_credentials: Vec<HeaderName>,

    /// How long a request may take before it is answered with 503
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = quantity::positive_time)]
    pub request_timeout: Duration,

    /// How long a request's head may take, from its first byte to its last, before the connection is closed
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = quantity::positive_time)]
    pub header_timeout: Duration,

    /// How long a connection may be idle; should be longer than the idle timeouts of load balancers and clients
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = quantity::positive_time)]
    pub idle_timeout: Duration,

    /// How long the service still accepts requests after SIGTERM, while it is not ready, until load balancers notice
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = quantity::time)]
    pub shutdown_delay: Duration,

    /// How long requests in flight may take to finish after that delay
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = quantity::time)]
    pub shutdown_timeout: Duration,

    /// What to log: error, warn, info, debug, trace or off, also by module; info,tower_http=debug logs every request
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log)]
    pub log: String,

    /// How to log: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Whether traces contain the keys of the cache, and with them URLs, instead of a digest of each
    #[arg(long, value_name = "BOOL", default_value = "false", value_parser = switch, action = clap::ArgAction::Set)]
    pub trace_keys: bool,

    /// Address and port of the operator's page and API, such as 127.0.0.1:9090; without it, neither is served
    #[arg(long, value_name = "ADDRESS", value_parser = listen)]
    pub admin_listen: Option<SocketAddr>,

    /// A file with the token that the operator's API requires, read again when it changes; without one, at a loopback address the
    /// API answers clients on this machine and changes nothing, and at another address it answers nobody
    #[arg(long, value_name = "FILE", value_parser = |path: &str| TokenFile::read(path))]
    pub admin_token_file: Option<TokenFile>,

    /// Whether to estimate how the hit ratio depends on the size of the memory, for the operator's page and as a metric
    #[arg(long, value_name = "BOOL", default_value = "false", value_parser = switch, action = clap::ArgAction::Set)]
    pub admin_sizing: bool,

    /// Paths below which the method PURGE is accepted with the operator's token, such as /api; none unless set
    #[arg(long, value_name = "PATHS")]
    pub admin_purge: Option<PurgePaths>,

    /// Ask the service that listens at --listen whether it is ready: exit code 0 if it is; of the variables, only APP_LISTEN counts
    #[arg(long)]
    pub healthcheck: bool,
}

/// Whether responses are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSwitch {
    /// Responses, and reads from the database, are cached.
    On,
    /// Nothing is cached.
    Off,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The user asked for this text instead, the help or the version.
    Asked(String),
    /// A setting is wrong: one line that names it, its value, and the values that are allowed.
    Wrong(String),
}

impl Config {
    /// Reads the flags and variables of this process.
    pub fn from_environment() -> Result<Self, ConfigError> {
        Self::parse_from_parts(std::env::args_os(), std::env::vars_os())
    }

    /// Reads `args`, the first of which is the program's name, and `variables`.
    ///
    /// With `--healthcheck` among `args`, no variable but `APP_LISTEN` is read: a service that runs is ready or not whatever has
    /// become of the files that it was started with.
    pub fn parse_from_parts(
        args: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let variables: Vec<_> = variables.into_iter().collect();
        let command = Self::command().mut_args(with_variable);

        let args: Vec<_> = args.into_iter().collect();
        let (program, flags) = args.split_at(args.len().min(1));
        let mut line = program.to_vec();
        let asks = flags.iter().any(|flag| flag == "--healthcheck");
        for flag in settings(&command).filter(|flag| !asks || *flag == "listen") {
            let value = variables.iter().find(|(name, value)| *name == *variable(flag) && !value.is_empty());
            if let Some((name, value)) = value {
                let Some(value) = value.to_str() else {
                    let name = name.display();
                    return Err(ConfigError::Wrong(format!("{name} must be UTF-8")));
                };
                line.push(format!("--{flag}={value}").into());
            }
        }
        // After the variables, so that a flag overrides its variable.
        line.extend_from_slice(flags);

        command
            .try_get_matches_from(line)
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(|error| ConfigError::from_clap(&error))?
            .complete()?
            .with_secrets_in_place()
    }

    /// Refuses a setting that has no effect without another one. Clap's own error names neither variable.
    fn complete(self) -> Result<Self, ConfigError> {
        for (flag, set, needed, there) in [
            ("admin-purge", self.admin_purge.is_some(), "admin-token-file", self.admin_token_file.is_some()),
            ("admin-token-file", self.admin_token_file.is_some(), "admin-listen", self.admin_listen.is_some()),
        ] {
            if set && !there {
                let (name, needed_name) = (variable(flag), variable(needed));
                return Err(ConfigError::Wrong(format!(
                    "{name} (or --{flag}) needs {needed_name} (or --{needed}), which is not set"
                )));
            }
        }
        Ok(self)
    }

    /// Moves secrets that were read from files to the fields that the rest of the service reads.
    fn with_secrets_in_place(mut self) -> Result<Self, ConfigError> {
        if let Some(url) = self.database_url_file.take() {
            self.database_url = url;
        }
        self.redis_url = self.redis_url_file.take().or(self.redis_url);
        if let Some(password) = self.redis_password_file.take() {
            let with_password = match &self.redis_url {
                Some(url) => url.with_password(&password),
                None => Err("there is no Redis to use it for; set APP_REDIS_URL".to_owned()),
            };
            let wrong = |why| ConfigError::Wrong(format!("{} is set, but {why}", variable("redis-password-file")));
            self.redis_url = Some(with_password.map_err(wrong)?);
        }
        Ok(self)
    }

    /// A sentence for each `APP_*` variable of this process that has no effect.
    #[must_use]
    pub fn unknown_variables() -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| unknown_variable(name.to_str()?)).collect()
    }
}

impl Default for Config {
    /// The configuration without any settings.
    fn default() -> Self {
        match Self::parse_from_parts(["service".into()], []) {
            Ok(config) => config,
            Err(error) => unreachable!("a default is not allowed: {error}"),
        }
    }
}

impl ConfigError {
    /// An error about a value that only turned out to be wrong when it was used.
    pub(crate) fn wrong(flag: &str, value: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Wrong(format!("{} (or --{flag}) is \"{value}\": {why}", variable(flag)))
    }

    fn from_clap(error: &clap::Error) -> Self {
        if let ErrorKind::DisplayHelp | ErrorKind::DisplayVersion = error.kind() {
            return Self::Asked(error.to_string());
        }
        if let (Some(ContextValue::String(arg)), Some(ContextValue::String(value)), Some(why)) =
            (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue), error.source())
        {
            let flag = arg.split(' ').next().unwrap_or_default();
            let flag = flag.trim_start_matches('-');
            return if flag.ends_with("-url") {
                Self::wrong(flag, SecretUrl::from(value.as_str()), why)
            } else {
                Self::wrong(flag, value.escape_debug(), why)
            };
        }
        let text = error.to_string();
        let summary = text.lines().next().unwrap_or_default();
        let summary = summary.strip_prefix("error: ").unwrap_or(summary);
        Self::Wrong(format!("{summary}; see service --help"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(text) | Self::Wrong(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ConfigError {}

impl FromStr for CacheSwitch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err("must be on or off".to_owned()),
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be text or json".to_owned()),
        }
    }
}

/// The flags that also have a variable: all that take a value.
fn settings(command: &clap::Command) -> impl Iterator<Item = &str> {
    command.get_arguments().filter(|arg| arg.get_action().takes_values()).filter_map(Arg::get_long)
}

/// Adds the variable of `arg` to its help.
fn with_variable(arg: Arg) -> Arg {
    let (Some(flag), Some(help), true) = (arg.get_long(), arg.get_help(), arg.get_action().takes_values()) else {
        return arg;
    };
    let mut help = format!("{help}\n[env: {}]", variable(flag));
    for default in arg.get_default_values() {
        let _ = write!(help, " [default: {}]", default.display());
    }
    arg.help(help).hide_default_value(true)
}

fn variable(flag: &str) -> String {
    format!("APP_{}", flag.replace('-', "_").to_ascii_uppercase())
}

fn unknown_variable(name: &str) -> Option<String> {
    let flag = name.strip_prefix("APP_")?.replace('_', "-").to_lowercase();
    let command = Config::command();
    if settings(&command).any(|setting| setting == flag) {
        return None;
    }
    // Clap suggests a flag for a mistyped one.
    let error = command.try_get_matches_from(["service", &format!("--{flag}")]).err();
    let hint = match error.as_ref().and_then(|error| error.get(ContextKind::SuggestedArg)) {
        Some(ContextValue::String(flag)) => {
            format!("; did you mean {}?", variable(flag.trim_start_matches('-')))
        }
        _ => String::new(),
    };
    Some(format!("{name} is not a setting of this service{hint}"))
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an IP address and a port, such as 127.0.0.1:8000 or [::]:8000".to_owned())
}

fn database_url(text: &str) -> Result<SecretUrl, String> {
    const ALLOWED: &str = "must be a URL such as sqlite://products.db or postgres://USER:PASSWORD@HOST:5432/NAME";
    let error = match text.split_once(':') {
        Some(("sqlite", _)) => text.parse::<SqliteConnectOptions>().err(),
        Some(("postgres" | "postgresql", _)) => text.parse::<PgConnectOptions>().err(),
        _ => return Err(ALLOWED.to_owned()),
    };
    match error {
        None => Ok(SecretUrl::from(text)),
        Some(sqlx::Error::Configuration(error)) => Err(format!("{ALLOWED} ({error})")),
        Some(error) => Err(format!("{ALLOWED} ({error})")),
    }
}

fn redis_url(text: &str) -> Result<SecretUrl, String> {
    let known = ["redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];
    // `valkey` is another name for `redis` in all URLs.
    let is_known = |scheme: &str| {
        known.contains(&scheme)
            || scheme.strip_prefix("valkey").is_some_and(|rest| known.contains(&&*format!("redis{rest}")))
    };
    if text.split_once("://").is_some_and(|(scheme, _)| is_known(&scheme.to_ascii_lowercase())) {
        Ok(SecretUrl::from(text))
    } else {
        Err("must be a URL such as redis://:PASSWORD@HOST:6379/0, rediss://HOST, unix:///PATH, redis+sentinel://HOST,HOST/NAME \
             or redis+cluster://HOST,HOST"
            .to_owned())
    }
}

fn field(text: &str) -> Result<HeaderName, String> {
    text.trim().parse().map_err(|_| "must be names of request fields, such as x-api-key,x-session".to_owned())
}

fn redis_timeout(text: &str) -> Result<Duration, String> {
    quantity::positive_time(text)
        .ok()
        .filter(|time| *time <= Duration::from_secs(10))
        .ok_or_else(|| "must be a time from 1ms to 10s".to_owned())
}

fn warm_time(text: &str) -> Result<Duration, String> {
    quantity::time(text)
        .ok()
        .filter(|time| *time <= Duration::from_secs(30))
        .ok_or_else(|| "must be a time from 0 to 30s".to_owned())
}

fn reclaim_time(text: &str) -> Result<Duration, String> {
    let allowed =
        |time: &Duration| time.is_zero() || (Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60)).contains(time);
    quantity::time(text).ok().filter(allowed).ok_or_else(|| "must be a time from 1s to 24h, or 0".to_owned())
}

fn cache_prefix(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("must have 1 to 64 letters, digits, or any of _ . -".to_owned())
    }
}

fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be true or false".to_owned())
}

fn log(text: &str) -> Result<String, String> {
    // The filter takes a word that is no level for a module of which everything is logged, and nothing else.
    let is_meant = |part: &str| part.contains(['=', '[']) || part.is_empty() || part.parse::<LevelFilter>().is_ok();
    if text.split(',').all(is_meant) && EnvFilter::try_new(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err("must be error, warn, info, debug, trace or off, also by module, such as info,cache_layer=debug".to_owned())
    }
}

#[cfg(test)]
mod tests;
