//! The arguments of `#[cached(…)]`.

use syn::{
    Error, Expr, ExprArray, ExprLit, Ident, Lit, LitInt, LitStr, Result, Token, parenthesized,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
};

use crate::duration::milliseconds;

const SETTINGS: &str = "`name`, `ttl`, `jitter`, `tags`, `lock`, `early_refresh`, `stale_while_revalidate`, `stale_if_error`, `keep`, \
    `soft_timeout`, `hard_timeout`, `fallback`, `failure_backoff`, `negative_ttl`, `many`, `skip`, `key`, `schema` or `cache`";

/// The durations that may be zero: `None` is not stored then, and there is no back-off.
const MAY_BE_ZERO: [&str; 2] = ["negative_ttl", "failure_backoff"];

/// A `Lock` of the library, by the name of its variant.
pub(crate) struct Lock(pub(crate) Ident);

pub(crate) enum Duration {
    Milliseconds(u64),
    Expression(Expr),
}

/// `many(id in ids)`: an element of an argument, and that argument.
pub(crate) struct Many {
    pub(crate) item: Ident,
    pub(crate) items: Ident,
}

pub(crate) struct Arguments {
    pub(crate) name: LitStr,
    pub(crate) ttl: Option<Duration>,
    pub(crate) jitter: Option<Expr>,
    pub(crate) early_refresh: Option<Expr>,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
    pub(crate) keep: Option<Duration>,
    pub(crate) soft_timeout: Option<Duration>,
    /// After how long, and with which error.
    pub(crate) hard_timeout: Option<(Duration, Expr)>,
    pub(crate) fallback: Option<Expr>,
    /// The first pause, and the longest.
    pub(crate) failure_backoff: Option<(Duration, Duration)>,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) many: Option<Many>,
    /// Strings with arguments in them, or expressions.
    pub(crate) tags: Vec<Expr>,
    pub(crate) lock: Option<Lock>,
    pub(crate) skip: Vec<Ident>,
    pub(crate) key: Option<LitStr>,
    pub(crate) schema: Option<LitInt>,
    pub(crate) cache: Option<Expr>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let begin = input.span();
        let mut name = None;
        let mut arguments = Self {
            name: LitStr::new("", begin),
            ttl: None,
            jitter: None,
            early_refresh: None,
            stale_while_revalidate: None,
            stale_if_error: None,
            keep: None,
            soft_timeout: None,
            hard_timeout: None,
            fallback: None,
            failure_backoff: None,
            negative_ttl: None,
            many: None,
            tags: Vec::new(),
            lock: None,
            skip: Vec::new(),
            key: None,
            schema: None,
            cache: None,
        };
        let mut seen: Vec<String> = Vec::new();
        while !input.is_empty() {
            let setting: Ident = input.parse()?;
            let meant = match setting.to_string() {
                short if short == "early" => "early_refresh".to_owned(),
                other => other,
            };
            if seen.contains(&meant) {
                return Err(Error::new(setting.span(), format!("`{meant}` is said twice")));
            }
            if setting == "name" {
                name = Some(value::<LitStr>(input, &setting, "a text, such as `name = \"product_list\"`")?);
            } else if !arguments.time(input, &setting)? && !arguments.other(input, &setting)? {
                return Err(Error::new(setting.span(), format!("there is no setting `{setting}`: write {SETTINGS}")));
            }
            seen.push(meant);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        match name {
            Some(name) if !name.value().is_empty() => Ok(Self { name, ..arguments }),
            Some(name) => Err(Error::new(
                name.span(),
                "the name is empty: write what the entries are called, such as \"product_list\"",
            )),
            None => Err(Error::new(
                begin,
                "the entries need a name that no other function uses: write `name = \"product_list\"`",
            )),
        }
    }
}

impl Arguments {
    /// Parses a setting that is a duration, or contains durations; `false` if this setting does not.
    fn time(&mut self, input: ParseStream<'_>, setting: &Ident) -> Result<bool> {
        let place = match setting.to_string().as_str() {
            "ttl" => &mut self.ttl,
            "stale_while_revalidate" => &mut self.stale_while_revalidate,
            "stale_if_error" => &mut self.stale_if_error,
            "keep" => &mut self.keep,
            "soft_timeout" => &mut self.soft_timeout,
            "negative_ttl" => &mut self.negative_ttl,
            "hard_timeout" => {
                let what = "a duration and an error: write `hard_timeout(\"2s\", Error::TimedOut)`";
                let (limit, error) = pair(input, setting, what)?;
                self.hard_timeout = Some((duration_of(limit, setting)?, error));
                return Ok(true);
            }
            "failure_backoff" => {
                let what = "a first pause and a longest: write `failure_backoff(\"1s\", \"30s\")`";
                let (first, longest) = pair(input, setting, what)?;
                self.failure_backoff = Some((duration_of(first, setting)?, duration_of(longest, setting)?));
                return Ok(true);
            }
            _ => return Ok(false),
        };
        *place = Some(duration(input, setting)?);
        Ok(true)
    }

    /// Parses any other setting; `false` if there is no setting with this name.
    fn other(&mut self, input: ParseStream<'_>, setting: &Ident) -> Result<bool> {
        match setting.to_string().as_str() {
            "jitter" => self.jitter = Some(number(input, setting, "per cent without quotes, such as `jitter = 10`")?),
            "early" | "early_refresh" => {
                let what = "a factor without quotes, such as `early_refresh = 1.0`";
                self.early_refresh = Some(number(input, setting, what)?);
            }
            "fallback" => self.fallback = Some(value(input, setting, "a value, such as `fallback = Vec::new()`")?),
            "many" => self.many = Some(many(input, setting)?),
            "tags" => self.tags = tags(input, setting)?,
            "lock" => self.lock = Some(lock(input, setting)?),
            "skip" => self.skip = names(input, setting)?,
            "key" => self.key = Some(value(input, setting, "a text, such as `key = \"{category}/{page}\"`")?),
            "schema" => self.schema = Some(value(input, setting, "a number, such as `schema = 2`")?),
            "cache" => self.cache = Some(cache(input, setting)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn value<T: Parse>(input: ParseStream<'_>, setting: &Ident, what: &str) -> Result<T> {
    let equals = input.parse::<Token![=]>();
    equals.and_then(|_| input.parse()).map_err(|error| Error::new(error.span(), format!("`{setting}` is {what}")))
}

const DURATION: &str = "a duration in quotes, such as `\"60s\"`, or an expression";

fn duration(input: ParseStream<'_>, setting: &Ident) -> Result<Duration> {
    duration_of(value(input, setting, DURATION)?, setting)
}

/// A number, or an expression.
fn number(input: ParseStream<'_>, setting: &Ident, what: &str) -> Result<Expr> {
    match value(input, setting, what)? {
        Expr::Lit(ExprLit { lit, .. }) if !matches!(lit, Lit::Int(_) | Lit::Float(_)) => {
            Err(Error::new_spanned(lit, format!("`{setting}` is {what}")))
        }
        number => Ok(number),
    }
}

/// Two expressions in parentheses.
fn pair(input: ParseStream<'_>, setting: &Ident, what: &str) -> Result<(Expr, Expr)> {
    let wrong = |span| Error::new(span, format!("`{setting}` has {what}"));
    if !input.peek(syn::token::Paren) {
        return Err(wrong(setting.span()));
    }
    let content;
    parenthesized!(content in input);
    let mut both = Punctuated::<Expr, Token![,]>::parse_terminated(&content)?.into_iter();
    match (both.next(), both.next(), both.next()) {
        (Some(one), Some(other), None) => Ok((one, other)),
        _ => Err(wrong(setting.span())),
    }
}

fn many(input: ParseStream<'_>, setting: &Ident) -> Result<Many> {
    let wrong = |span| {
        Error::new(span, "`many` names an argument, and what one of its elements is called: write `many(id in ids)`")
    };
    if !input.peek(syn::token::Paren) {
        return Err(wrong(setting.span()));
    }
    let content;
    parenthesized!(content in input);
    let read = |content: ParseStream<'_>| {
        let item = content.parse()?;
        content.parse::<Token![in]>()?;
        Ok(Many { item, items: content.parse()? })
    };
    read(&content).map_err(|error: Error| wrong(error.span()))
}

fn duration_of(expression: Expr, setting: &Ident) -> Result<Duration> {
    match expression {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
            let may_be_zero = MAY_BE_ZERO.iter().any(|name| setting == name);
            milliseconds(&text, may_be_zero).map(Duration::Milliseconds)
        }
        Expr::Lit(other) => Err(Error::new_spanned(other, format!("`{setting}` is {DURATION}"))),
        expression => Ok(Duration::Expression(expression)),
    }
}

fn tags(input: ParseStream<'_>, setting: &Ident) -> Result<Vec<Expr>> {
    let list: ExprArray = value(input, setting, "a list of texts, such as `tags = [\"product:{id}\", \"products\"]`")?;
    Ok(list.elems.into_iter().collect())
}

fn lock(input: ParseStream<'_>, setting: &Ident) -> Result<Lock> {
    if !input.peek(Token![=]) {
        return Ok(Lock(Ident::new("Fleet", setting.span())));
    }
    let what = "`lock`, which is `lock = \"fleet\"`, or `lock = \"process\"`, or `lock = \"off\"`";
    let lock: LitStr = value(input, setting, what)?;
    let variant = match lock.value().as_str() {
        "fleet" => "Fleet",
        "process" => "Process",
        "off" => "Off",
        other => return Err(Error::new(lock.span(), format!("there is no lock {other:?}: write {what}"))),
    };
    Ok(Lock(Ident::new(variant, lock.span())))
}

fn names(input: ParseStream<'_>, setting: &Ident) -> Result<Vec<Ident>> {
    if !input.peek(syn::token::Paren) {
        return Err(Error::new(setting.span(), "`skip` names arguments: write `skip(db)`"));
    }
    let content;
    parenthesized!(content in input);
    Ok(Punctuated::<Ident, Token![,]>::parse_terminated(&content)?.into_iter().collect())
}

/// An expression, in quotes or without.
fn cache(input: ParseStream<'_>, setting: &Ident) -> Result<Expr> {
    match value(input, setting, "where the cache is, such as `cache = \"self.cache\"`")? {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text.parse(),
        expression => Ok(expression),
    }
}
