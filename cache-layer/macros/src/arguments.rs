//! What stands in the brackets of `#[cached(…)]`.

use syn::{
    Error, Expr, ExprArray, ExprLit, Ident, Lit, LitInt, LitStr, Result, Token, parenthesized,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
};

use crate::duration::milliseconds;

const SETTINGS: &str = "`name`, `ttl`, `tags`, `lock`, `stale_while_revalidate`, `stale_if_error`, `negative_ttl`, `skip`, `key`, `schema` or `cache`";

/// A `Lock` of the library, by the name of its variant.
pub(crate) struct Lock(pub(crate) Ident);

pub(crate) enum Duration {
    Milliseconds(u64),
    Expression(Expr),
}

pub(crate) struct Arguments {
    pub(crate) name: LitStr,
    pub(crate) ttl: Option<Duration>,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
    pub(crate) negative_ttl: Option<Duration>,
    /// Texts with arguments in them, or expressions.
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
            stale_while_revalidate: None,
            stale_if_error: None,
            negative_ttl: None,
            tags: Vec::new(),
            lock: None,
            skip: Vec::new(),
            key: None,
            schema: None,
            cache: None,
        };
        let mut seen: Vec<Ident> = Vec::new();
        while !input.is_empty() {
            let setting: Ident = input.parse()?;
            if seen.contains(&setting) {
                return Err(Error::new(setting.span(), format!("`{setting}` is said twice")));
            }
            match setting.to_string().as_str() {
                "name" => name = Some(value::<LitStr>(input, &setting, "a text, such as `name = \"product_list\"`")?),
                "ttl" => arguments.ttl = Some(duration(input, &setting)?),
                "stale_while_revalidate" => arguments.stale_while_revalidate = Some(duration(input, &setting)?),
                "stale_if_error" => arguments.stale_if_error = Some(duration(input, &setting)?),
                "negative_ttl" => arguments.negative_ttl = Some(duration(input, &setting)?),
                "tags" => arguments.tags = tags(input, &setting)?,
                "lock" => arguments.lock = Some(lock(input, &setting)?),
                "skip" => arguments.skip = names(input, &setting)?,
                "key" => arguments.key = Some(value(input, &setting, "a text, such as `key = \"{category}/{page}\"`")?),
                "schema" => arguments.schema = Some(value(input, &setting, "a number, such as `schema = 2`")?),
                "cache" => arguments.cache = Some(cache(input, &setting)?),
                other => {
                    return Err(Error::new(setting.span(), format!("there is no setting `{other}`: write {SETTINGS}")));
                }
            }
            seen.push(setting);
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

fn value<T: Parse>(input: ParseStream<'_>, setting: &Ident, what: &str) -> Result<T> {
    let equals = input.parse::<Token![=]>();
    equals.and_then(|_| input.parse()).map_err(|error| Error::new(error.span(), format!("`{setting}` is {what}")))
}

fn duration(input: ParseStream<'_>, setting: &Ident) -> Result<Duration> {
    let what = "a duration in quotes, such as `\"60s\"`, or an expression";
    match value(input, setting, what)? {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => milliseconds(&text).map(Duration::Milliseconds),
        Expr::Lit(other) => Err(Error::new_spanned(other, format!("`{setting}` is {what}"))),
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
