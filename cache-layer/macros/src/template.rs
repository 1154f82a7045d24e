//! The template of a key: text, and the names of arguments, or of fields of `self`, in braces.

use proc_macro2::Span;
use quote::format_ident;
use syn::{Error, Expr, Ident, LitStr, Result, ext::IdentExt as _, parse::Parser as _};

pub(crate) enum Piece {
    Text(String),
    Argument(Ident),
    /// `self`, or a field of it, such as `self.shop.tenant`.
    Field(Expr),
}

impl Piece {
    pub(crate) fn field(&self) -> Option<&Expr> {
        match self {
            Self::Field(field) => Some(field),
            Self::Text(_) | Self::Argument(_) => None,
        }
    }
}

pub(crate) fn pieces(template: &LitStr) -> Result<Vec<Piece>> {
    let wrong = |why: String| {
        Error::new(template.span(), format!("{why}: write arguments as `{{name}}`, and a brace as `{{{{` or `}}}}`"))
    };
    let value = template.value();
    let mut rest = value.as_str();
    let mut pieces = Vec::new();
    let mut text = String::new();
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let (brace, tail) = rest[at..].split_at(1);
        if let Some(tail) = tail.strip_prefix(brace) {
            text.push_str(brace);
            rest = tail;
            continue;
        }
        let ("{", Some((name, tail))) = (brace, tail.split_once('}')) else {
            return Err(wrong(format!("a `{brace}` without its counterpart")));
        };
        let Some(piece) = named(name, Span::call_site().located_at(template.span())) else {
            return Err(wrong(format!("`{{{name}}}` names neither an argument nor a field of `self`")));
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(piece);
        rest = tail;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

fn named(name: &str, span: Span) -> Option<Piece> {
    if let Some(field) = field_of_self(name, span) {
        return Some(Piece::Field(field));
    }
    // The name of an argument may be a keyword, written raw or not.
    let mut name = Ident::parse_any.parse_str(name).ok()?;
    name.set_span(span);
    Some(Piece::Argument(name))
}

fn field_of_self(name: &str, span: Span) -> Option<Expr> {
    fn is_of_self(expression: &Expr) -> bool {
        match expression {
            Expr::Path(path) => path.path.is_ident("self"),
            Expr::Field(field) => is_of_self(&field.base),
            _ => false,
        }
    }
    let expression = LitStr::new(name, span).parse().ok()?;
    is_of_self(&expression).then_some(expression)
}

/// A tag with a name for each field of `self` in it, and these fields: `format!` takes names only.
pub(crate) fn tag(tag: &LitStr) -> (LitStr, Vec<(Ident, Expr)>) {
    let (value, span) = (tag.value(), Span::call_site().located_at(tag.span()));
    let mut rest = value.as_str();
    let (mut text, mut fields) = (String::new(), Vec::new());
    while let Some(at) = rest.find('{') {
        let (before, tail) = rest.split_at(at + 1);
        text.push_str(before);
        rest = tail;
        if let Some(tail) = rest.strip_prefix('{') {
            text.push('{');
            rest = tail;
            continue;
        }
        let (name, tail) = rest.split_at(rest.find([':', '}']).unwrap_or(rest.len()));
        if let Some(field) = field_of_self(name, span) {
            let name = format_ident!("__of_self_{}", fields.len());
            text.push_str(&name.to_string());
            fields.push((name, field));
            rest = tail;
        }
    }
    text.push_str(rest);
    // What is unchanged stays as it is written, for the compiler's messages.
    let text = if fields.is_empty() { tag.clone() } else { LitStr::new(&text, tag.span()) };
    (text, fields)
}
