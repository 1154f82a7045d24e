//! The function that is to be cached, and the checks whether it can be.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{
    Error, Expr, FnArg, GenericArgument, Ident, ItemFn, Pat, PatIdent, PatType, PathArguments, Receiver, Result,
    ReturnType, Signature, Type, TypePath, TypeReference, ext::IdentExt as _, parse_quote,
};

use crate::{
    arguments::{Arguments, Many},
    template::{Piece, pieces},
};

pub(crate) struct Function {
    pub(crate) arguments: Arguments,
    pub(crate) item: ItemFn,
    pub(crate) receiver: Option<Receiver>,
    pub(crate) inputs: Vec<Input>,
    /// The template of the key, if the key is not made of the arguments one after another.
    pub(crate) template: Option<Vec<Piece>>,
    pub(crate) cache: Expr,
    /// Whether an argument that is not part of the key is the cache, or leads to it.
    pub(crate) cache_is_argument: bool,
    /// The return type.
    pub(crate) output: Type,
}

/// An argument.
pub(crate) struct Input {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    /// Whether the load gets a clone of what it refers to; a `&'static` reference is passed on as it is.
    pub(crate) borrowed: bool,
    /// Whether it is part of the key.
    pub(crate) keyed: bool,
    /// The element that is part of a key, if each element of the argument has a key.
    pub(crate) element: Option<Element>,
}

/// An element of an argument, and its type.
pub(crate) struct Element {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
}

impl Function {
    pub(crate) fn new(arguments: Arguments, item: ItemFn) -> Result<Self> {
        check(&item.sig)?;
        let (receiver, mut inputs) = inputs_of(&item.sig)?;
        if receiver.is_none() {
            check_place(&item.sig)?;
        }
        if let Some(many) = &arguments.many {
            take_apart(&arguments, many, &mut inputs)?;
        }
        for skipped in &arguments.skip {
            find(&mut inputs, skipped)?.keyed = false;
        }
        let mut template = arguments.key.as_ref().map(pieces).transpose()?;
        if let Some(template) = &mut template {
            inputs.iter_mut().for_each(|input| input.keyed = false);
            check_fields(template, receiver.as_ref())?;
            for piece in template {
                if let Piece::Argument(name) = piece {
                    let input = find(&mut inputs, name)?;
                    input.keyed = true;
                    // As the function writes it, raw or not.
                    let span = name.span();
                    name.clone_from(input.key_name());
                    name.set_span(span);
                }
            }
        }
        if let Some(element) = inputs.iter().find_map(|input| input.element.as_ref().filter(|_| !input.keyed)) {
            let name = &element.name;
            return Err(Error::new(
                name.span(),
                format!(
                    "all elements would have one key: `{name}` can't be skipped, and a template has to name `{{{name}}}`"
                ),
            ));
        }
        let (cache, cache_is_argument) = cache_of(&arguments, &mut inputs, &item.sig)?;
        let output = output_of(&item.sig)?;
        Ok(Self { arguments, receiver, inputs, template, cache, cache_is_argument, output, item })
    }
}

/// Gives each element of an argument an entry of its own.
fn take_apart(arguments: &Arguments, Many { item, items }: &Many, inputs: &mut [Input]) -> Result<()> {
    if let Some(fallback) = &arguments.fallback {
        return Err(Error::new_spanned(
            fallback,
            "`fallback` is for functions with one value, and not for `many`: leave it out, and put in what is missing behind \
             the call",
        ));
    }
    if let Some(input) = inputs.iter().find(|input| input.name == *item) {
        let name = &input.name;
        return Err(Error::new(item.span(), format!("`{name}` is an argument already: call the element otherwise")));
    }
    let input = find(inputs, items)?;
    if is_static(&input.ty) {
        return Err(Error::new_spanned(
            &input.ty,
            format!("the function gets a list of what is missing, which is not `'static`: write `{items}: &[…]`"),
        ));
    }
    let Some(ty) = element_of(&input.ty) else {
        return Err(Error::new_spanned(
            &input.ty,
            format!("`many` goes through a list: write `{items}: Vec<…>` or `{items}: &[…]`"),
        ));
    };
    input.element = Some(Element { name: item.clone(), ty });
    Ok(())
}

/// The type of the elements of a `Vec` or a slice.
fn element_of(ty: &Type) -> Option<Type> {
    match ty {
        Type::Reference(reference) => element_of(&reference.elem),
        Type::Slice(slice) => Some((*slice.elem).clone()),
        Type::Path(TypePath { path, .. }) => {
            let last = path.segments.last().filter(|segment| segment.ident == "Vec")?;
            let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
            match arguments.args.first()? {
                GenericArgument::Type(element) => Some(element.clone()),
                _ => None,
            }
        }
        _ => None,
    }
}

fn check(signature: &Signature) -> Result<()> {
    if signature.asyncness.is_none() {
        return Err(Error::new(signature.fn_token.span, "only async functions can be cached: write `async fn`"));
    }
    if let Some(parameter) = signature.generics.params.first() {
        return Err(Error::new_spanned(
            parameter,
            "functions with parameters can't be cached, since each type would share its entries with all others: \
             write one function for each type, and leave lifetimes out",
        ));
    }
    Ok(())
}

/// An attribute does not see what is around its function. A function outside of an `impl` has no `Self`.
fn check_place(signature: &Signature) -> Result<()> {
    match find_word(signature.to_token_stream(), "Self") {
        None => Ok(()),
        Some(name) => Err(Error::new(
            name.span(),
            "a function without `self` can't be cached within an `impl`, which can't contain the type that is added: take \
             `&self`, or cache a function outside of the `impl`, and call that",
        )),
    }
}

/// A template may name fields of `self` if there is one.
fn check_fields(template: &[Piece], receiver: Option<&Receiver>) -> Result<()> {
    match template.iter().find_map(Piece::field).filter(|_| receiver.is_none()) {
        None => Ok(()),
        Some(field) => {
            let name = field.to_token_stream().to_string().replace(' ', "");
            let why = format!("a function without `self` has no `{name}`: write one of its arguments");
            Err(Error::new_spanned(field, why))
        }
    }
}

fn find_word(tokens: TokenStream, word: &str) -> Option<Ident> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Group(group) => find_word(group.stream(), word),
        TokenTree::Ident(name) => (name == word).then_some(name),
        TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    })
}

/// Whether an expression uses this variable. A field or a segment of a path with its name is something else.
fn uses(expression: TokenStream, variable: &Ident) -> bool {
    let tokens: Vec<TokenTree> = expression.into_iter().collect();
    let sign = |at: Option<usize>| match tokens.get(at?)? {
        TokenTree::Punct(punct) => Some(punct.as_char()),
        _ => None,
    };
    let is_path = |at: Option<usize>| sign(at) == Some(':') && sign(at.map(|at| at + 1)) == Some(':');
    tokens.iter().enumerate().any(|(at, token)| match token {
        TokenTree::Group(group) => uses(group.stream(), variable),
        TokenTree::Ident(name) if name.unraw() == variable.unraw() => {
            sign(at.checked_sub(1)) != Some('.') && !is_path(at.checked_sub(2)) && !is_path(Some(at + 1))
        }
        TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

fn inputs_of(signature: &Signature) -> Result<(Option<Receiver>, Vec<Input>)> {
    let (mut receiver, mut inputs) = (None, Vec::new());
    for input in &signature.inputs {
        match input {
            FnArg::Receiver(this) => receiver = Some(receiver_of(this)?),
            FnArg::Typed(typed) => inputs.push(Input::new(typed)?),
        }
    }
    Ok((receiver, inputs))
}

/// The cache, and whether an argument that is not part of the key is the cache, or leads to it.
fn cache_of(arguments: &Arguments, inputs: &mut [Input], signature: &Signature) -> Result<(Expr, bool)> {
    match (&arguments.cache, inputs.iter_mut().find(|input| is_cache(&input.ty))) {
        (Some(cache), argument) => {
            argument.into_iter().for_each(|input| input.keyed = false);
            // With `many`, an element is part of the key, and the list is not.
            let mut beside = inputs.iter().filter(|input| !input.keyed || input.element.is_some());
            let is_argument = beside.any(|input| uses(cache.to_token_stream(), &input.name));
            Ok((cache.clone(), is_argument))
        }
        (None, Some(input)) => {
            input.keyed = false;
            let name = &input.name;
            Ok((parse_quote!(#name), true))
        }
        (None, None) => Err(Error::new(
            signature.ident.span(),
            "which cache? Write `cache = \"self.cache\"`, or any other expression, or give the function an argument \
             of type `&Cache`",
        )),
    }
}

/// The type that the function returns.
fn output_of(signature: &Signature) -> Result<Type> {
    let ReturnType::Type(_, output) = &signature.output else {
        return Err(Error::new(signature.ident.span(), "there is nothing to cache: write what the function returns"));
    };
    if find_word(output.to_token_stream(), "impl").is_some() {
        return Err(Error::new_spanned(
            output,
            "a value is read back as the type that is written here: write the type's name",
        ));
    }
    Ok(Type::clone(output))
}

impl Input {
    fn new(PatType { pat, ty, .. }: &PatType) -> Result<Self> {
        let Pat::Ident(PatIdent { ident, by_ref: None, subpat: None, .. }) = &**pat else {
            return Err(Error::new_spanned(
                pat,
                "a cached function needs a name for each argument: take it apart in the body",
            ));
        };
        let borrowed = match &**ty {
            Type::Reference(TypeReference { mutability: Some(_), .. }) => {
                return Err(Error::new_spanned(
                    ty,
                    "what a function changes is not done again on a hit: take it by `&`, or don't cache the function",
                ));
            }
            // Within another type, too: `&impl Trait` is a parameter without a name.
            ty if find_word(ty.to_token_stream(), "impl").is_some() => {
                return Err(Error::new_spanned(ty, "functions with parameters can't be cached: write the type"));
            }
            ty => matches!(ty, Type::Reference(_)) && !is_static(ty),
        };
        Ok(Self { name: ident.clone(), ty: (**ty).clone(), borrowed, keyed: true, element: None })
    }

    /// The name of the argument, or of one of its elements, in the code that makes a key.
    pub(crate) fn key_name(&self) -> &Ident {
        self.element.as_ref().map_or(&self.name, |element| &element.name)
    }
}

fn receiver_of(this: &Receiver) -> Result<Receiver> {
    if this.mutability.is_some() && this.reference.is_some() {
        return Err(Error::new_spanned(this, "what a method changes is not done again on a hit: write `&self`"));
    }
    // `mut self` is for the method's own body.
    Ok(Receiver { mutability: None, ..this.clone() })
}

fn is_static(ty: &Type) -> bool {
    matches!(ty, Type::Reference(TypeReference { lifetime: Some(lifetime), .. }) if lifetime.ident == "static")
}

fn find<'a>(inputs: &'a mut [Input], name: &Ident) -> Result<&'a mut Input> {
    let known: Vec<String> = inputs.iter().map(|input| format!("`{}`", input.key_name())).collect();
    inputs.iter_mut().find(|input| input.key_name().unraw() == name.unraw()).ok_or_else(|| {
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("write {}", known.join(" or ")) };
        Error::new(name.span(), format!("the function has no argument `{name}`: {known}"))
    })
}

fn is_cache(ty: &Type) -> bool {
    let ty = match ty {
        Type::Reference(reference) => &reference.elem,
        other => other,
    };
    last_segment(ty).is_some_and(|name| name == "Cache")
}

fn last_segment(ty: &Type) -> Option<&Ident> {
    match ty {
        Type::Path(TypePath { path, .. }) => path.segments.last().map(|segment| &segment.ident),
        _ => None,
    }
}
