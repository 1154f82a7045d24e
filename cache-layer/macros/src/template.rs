//! The template of a key: text, and the names of arguments in braces.

use proc_macro2::Span;
use syn::{Error, Ident, LitStr, Result, ext::IdentExt as _, parse::Parser as _};

pub(crate) enum Piece {
    Text(String),
    Argument(Ident),
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
        // The name of an argument may be a keyword, written raw or not.
        let mut name =
            Ident::parse_any.parse_str(name).map_err(|_| wrong(format!("`{{{name}}}` names no argument")))?;
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        name.set_span(Span::call_site().located_at(template.span()));
        pieces.push(Piece::Argument(name));
        rest = tail;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}
