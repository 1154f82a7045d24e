//! The code that a cached function expands to.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Attribute, Expr, ExprLit, FnArg, Ident, ItemFn, Lit, Meta, Pat, Receiver, Signature, Type, parse_quote,
    spanned::Spanned as _,
};

use crate::{
    arguments::{Arguments, Duration, Lock},
    function::{Element, Function, Input},
    template::{self, Piece},
};

pub(crate) fn expand(function: &Function) -> TokenStream {
    let Function { item, .. } = function;
    let ItemFn { attrs, vis, sig, block } = item;
    let (attrs, carried) = (attrs.iter().map(without_expect), carried(attrs));
    let uncached = Signature { ident: uncached_name(&sig.ident), ..sig.clone() };
    let signature = without_mut(sig);
    let answer = function.answer(false);
    let (quiet, companions) = (quiet(), function.companions());
    // Arguments that are only used for the key or the cache must not cause warnings.
    let used = function.inputs.iter().map(|input| &input.name);
    quote! {
        #(#attrs)*
        #quiet
        #vis #signature {
            #answer
        }

        #(#carried)*
        #[doc(hidden)]
        #[allow(clippy::unused_async, unused_braces)]
        #uncached {
            #(let _ = &#used;)*
            #block
        }

        #companions
    }
}

/// Lints of the signature are reported once, for the function with the body. The functions around it, which take the same
/// arguments and pass them on, would report them again, or report lints of their own.
fn quiet() -> TokenStream {
    quote! {
        #[allow(
            clippy::needless_pass_by_value,
            clippy::ptr_arg,
            clippy::ref_option,
            clippy::too_many_arguments,
            clippy::trivially_copy_pass_by_ref
        )]
    }
}

/// The attributes that hold for all code that is made of a function: those for lints. `cfg` and `cfg_attr` are evaluated before.
fn carried(attributes: &[Attribute]) -> Vec<Attribute> {
    let lints =
        |attribute: &Attribute| ["allow", "warn", "deny", "forbid"].iter().any(|name| attribute.path().is_ident(name));
    attributes.iter().map(without_expect).filter(lints).collect()
}

/// The attribute with `allow` in place of `expect`: a lint is reported for the body, or for the functions around it, and an
/// expectation would remain unfulfilled in the other place.
fn without_expect(attribute: &Attribute) -> Attribute {
    match &attribute.meta {
        Meta::List(list) if list.path.is_ident("expect") => {
            let lints = &list.tokens;
            parse_quote!(#[allow(#lints)])
        }
        _ => attribute.clone(),
    }
}

fn uncached_name(name: &Ident) -> Ident {
    format_ident!("__{}_uncached", name)
}

/// The signature, for a body that changes none of its arguments.
fn without_mut(signature: &Signature) -> Signature {
    let mut signature = signature.clone();
    for input in &mut signature.inputs {
        match input {
            FnArg::Receiver(receiver) if receiver.reference.is_none() => receiver.mutability = None,
            FnArg::Typed(typed) => {
                if let Pat::Ident(name) = &mut *typed.pat {
                    name.mutability = None;
                }
            }
            FnArg::Receiver(_) => {}
        }
    }
    signature
}

impl Function {
    /// The body: looks up, and loads if needed.
    fn answer(&self, refresh: bool) -> TokenStream {
        let cache = &self.cache;
        let answer = match self.inputs.iter().find_map(|input| Some((input, input.element.as_ref()?))) {
            None => self.answer_one(refresh),
            Some((input, element)) => self.answer_many(input, element, refresh),
        };
        quote! {
            #[allow(unused_imports)]
            use ::cache_layer::__cached::Plain as _;
            let __cache: ::cache_layer::__cached::Cache = (#cache).clone();
            #answer
        }
    }

    fn answer_one(&self, refresh: bool) -> TokenStream {
        let Self { output, arguments, .. } = self;
        let (key, tags, call, returned) = (self.key(), self.tags(), self.call(), self.returned());
        let (before, settings) = settings(arguments, output);
        let refresh = refresh.then(|| quote!(.refresh()));
        let owned = self.owned(|_| true);
        let negative_ttl = arguments.negative_ttl.as_ref().map(|_| {
            quote_spanned!(output.span()=> let __ask = ::cache_layer::__cached::Absent::negative_ttl(__ask, __negative_ttl);)
        });
        quote! {
            let __key = #key;
            let __tags: ::std::vec::Vec<::std::string::String> = #tags;
            #before
            #owned
            let __ask = __cache
                .get_or_load(__key, move || async move { #returned.loaded(#call) })
                #settings
                .tags(__tags)
                #refresh;
            #negative_ttl
            #returned.answer(::cache_layer::__cached::asked(__ask).await)
        }
    }

    /// The same for each element of an argument: the function runs for the missing elements.
    fn answer_many(&self, input: &Input, element: &Element, refresh: bool) -> TokenStream {
        let (key, tags, call, returned) = (self.key(), self.tags(), self.call(), self.returned());
        let (items, Element { name: item, ty }) = (&input.name, element);
        let (before, settings) = settings(&self.arguments, &self.output);
        let refresh = refresh.then(|| quote!(.refresh()));
        let negative_ttl = self.arguments.negative_ttl.as_ref().map(|_| quote!(.negative_ttl(__negative_ttl)));
        let all = if input.borrowed { quote!(#items.to_vec()) } else { quote!(#items) };
        let owned = self.owned(|other| other.name != *items);
        quote! {
            #before
            let __items: ::std::vec::Vec<#ty> = #all;
            let __asked: ::std::vec::Vec<::cache_layer::__cached::Item<#ty>> = ::std::iter::Iterator::collect(
                ::std::iter::Iterator::map(::std::iter::IntoIterator::into_iter(__items), |#item| {
                    let __key = #key;
                    let __tags: ::std::vec::Vec<::std::string::String> = #tags;
                    ::cache_layer::__cached::Item::new(#item, __key, __tags)
                }),
            );
            #owned
            let __ask = __cache
                .get_or_load_many(__asked.clone(), move |__missing: ::std::vec::Vec<::cache_layer::__cached::Item<#ty>>| async move {
                    let #items = ::cache_layer::__cached::items(&__missing);
                    #returned.loaded(#call).map(|__brought| ::cache_layer::__cached::brought(__missing, __brought))
                })
                #settings
                .tags_of(|__item: &::cache_layer::__cached::Item<#ty>| __item.tags())
                #negative_ttl
                #refresh;
            #returned.answer(::cache_layer::__cached::asked_many(__ask).await.map(|__values| ::cache_layer::__cached::found(__asked, __values)))
        }
    }

    /// The owned arguments of the load: it outlives its caller, so it borrows nothing.
    fn owned(&self, which: impl Fn(&Input) -> bool) -> TokenStream {
        let owned = self
            .inputs
            .iter()
            .filter(|input| input.borrowed && which(input))
            .map(|Input { name, .. }| quote!(let #name = ::cache_layer::__cached::ToOwned::to_owned(#name);));
        let this = self.receiver.as_ref().map(|receiver| {
            if receiver.reference.is_some() || matches!(&*receiver.ty, Type::Reference(_)) {
                let span = Span::call_site().located_at(receiver.span());
                quote_spanned!(span=> let __this = ::cache_layer::__cached::Shared::share(self);)
            } else {
                quote!(let __this = self;)
            }
        });
        quote!(#this #(#owned)*)
    }

    /// The call of the function itself.
    fn call(&self) -> TokenStream {
        let uncached = uncached_name(&self.item.sig.ident);
        let passed = self
            .inputs
            .iter()
            .map(|Input { name, borrowed, .. }| if *borrowed { quote!(&#name) } else { quote!(#name) });
        match self.receiver {
            Some(_) => quote!(__this.#uncached(#(#passed),*).await),
            None => quote!(#uncached(#(#passed),*).await),
        }
    }

    /// Leaves it to the type system whether the function returns a `Result`: an alias can have any name.
    fn returned(&self) -> TokenStream {
        let output = &self.output;
        quote!(::cache_layer::__cached::Returned::<#output>::of())
    }

    fn tags(&self) -> TokenStream {
        let tags = self.arguments.tags.iter().map(|tag| match tag {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
                let (text, fields) = template::tag(text);
                let (names, fields): (Vec<Ident>, Vec<Expr>) = fields.into_iter().unzip();
                quote!(::cache_layer::__cached::format!(#text #(, #names = #fields)*))
            }
            other => quote!(::std::string::String::from(#other)),
        });
        quote!(::std::vec![#(#tags),*])
    }

    fn key(&self) -> TokenStream {
        let Arguments { name, schema, .. } = &self.arguments;
        let name = match schema {
            Some(schema) => format!("{}@{}", name.value(), schema.base10_digits()),
            None => name.value(),
        };
        let parts: Vec<TokenStream> = match &self.template {
            Some(template) => template
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text) => quote!(.piece(#text)),
                    Piece::Argument(name) => quote!(.piece(&#name)),
                    Piece::Field(field) => quote!(.piece(&#field)),
                })
                .collect(),
            None => self
                .inputs
                .iter()
                .filter(|input| input.keyed)
                .enumerate()
                .map(|(place, input)| {
                    let (name, comma) = (input.key_name(), (place > 0).then(|| quote!(.piece(","))));
                    let span = Span::call_site().located_at(input.name.span());
                    quote_spanned!(span=> #comma .argument(&#name))
                })
                .collect(),
        };
        let begin = match self.receiver {
            Some(_) => quote!(of::<Self>(#name)),
            None => quote!(new(#name)),
        };
        quote!(::cache_layer::__cached::KeyParts::#begin #(#parts)* .key())
    }

    /// The companions of the function: its key, its invalidation and its refresh.
    fn companions(&self) -> TokenStream {
        match &self.receiver {
            Some(receiver) => self.methods_beside(receiver),
            None => self.type_beside(),
        }
    }

    /// The companions of a function belong to a type. A module would not see what is beside a function in the body of another
    /// one, and in it, `super`, `self` and the names of the companions would change the meaning of the signature and settings.
    fn type_beside(&self) -> TokenStream {
        let ItemFn { attrs, vis, sig, .. } = &self.item;
        let (carried, output, bounds) = (carried(attrs), &sig.output, &sig.generics.where_clause);
        let name = format_ident!("{}_cache", sig.ident);
        let type_doc = format!("What the cache has of [`{}`].", sig.ident);
        let invalidate_doc = "Invalidates the entry of these arguments.";
        let (all, keyed, keyed_names) = (self.all_inputs(), self.keyed_inputs(), self.keyed_names());
        let (key, refresh) = (self.key(), self.answer(true));
        let (types, quiet) = (quote!(::cache_layer::__cached), quiet());
        quote! {
            #[doc = #type_doc]
            #(#carried)*
            #[allow(dead_code, missing_copy_implementations, missing_debug_implementations, non_camel_case_types)]
            #[allow(unreachable_pub)]
            #vis enum #name {}

            #(#carried)*
            #[allow(dead_code, unreachable_pub)]
            #quiet
            impl #name {
                #[doc = #KEY_DOC]
                #[must_use]
                #vis fn key(#(#keyed),*) -> #types::Key
                #bounds
                {
                    #key
                }

                #[doc = #invalidate_doc]
                ///
                /// # Errors
                ///
                /// If the store could not be reached.
                #vis async fn invalidate(
                    __cache: &#types::Cache,
                    #(#keyed),*
                ) -> ::core::result::Result<(), #types::InvalidateError>
                #bounds
                {
                    __cache.invalidate(&Self::key(#(#keyed_names),*)).await
                }

                #[doc = #REFRESH_DOC]
                #vis async fn refresh(#(#all),*) #output
                #bounds
                {
                    #refresh
                }
            }
        }
    }

    /// The companions of a method are methods: an `impl` can't contain a module.
    fn methods_beside(&self, receiver: &Receiver) -> TokenStream {
        let ItemFn { attrs, vis, sig, .. } = &self.item;
        let (carried, output, bounds) = (carried(attrs), &sig.output, &sig.generics.where_clause);
        let [key_name, invalidate_name, refresh_name] =
            ["key", "invalidate", "refresh"].map(|companion| format_ident!("{}_{companion}", sig.ident));
        let invalidate_doc = format!("Invalidates the entry that [`{}`](Self::{0}) has of these arguments.", sig.ident);
        let (all, keyed) = (self.all_inputs(), self.keyed_inputs());
        let (key, refresh) = (self.key(), self.answer(true));
        let (types, quiet) = (quote!(::cache_layer::__cached), quiet());
        let this = self.key_has_self().then(|| quote!(&self,));
        let (from, invalidate) = self.invalidation(receiver, &key_name);
        quote! {
            #[doc = #KEY_DOC]
            #(#carried)*
            #[allow(dead_code)]
            #quiet
            #[must_use]
            #vis fn #key_name(#this #(#keyed),*) -> #types::Key
            #bounds
            {
                #key
            }

            #[doc = #invalidate_doc]
            ///
            /// # Errors
            ///
            /// If the store could not be reached.
            #(#carried)*
            #[allow(dead_code)]
            #quiet
            #vis async fn #invalidate_name(
                #from,
                #(#keyed),*
            ) -> ::core::result::Result<(), #types::InvalidateError>
            #bounds
            {
                #invalidate
            }

            #[doc = #REFRESH_DOC]
            #(#carried)*
            #[allow(dead_code)]
            #quiet
            #vis async fn #refresh_name(#receiver, #(#all),*) #output
            #bounds
            {
                #refresh
            }
        }
    }

    /// What the invalidation of a method takes besides the arguments of the key, and its body. The caller passes the cache if the
    /// method has it by an argument that is not part of the key.
    fn invalidation(&self, receiver: &Receiver, key_name: &Ident) -> (TokenStream, TokenStream) {
        let (types, cache, names) = (quote!(::cache_layer::__cached), &self.cache, self.keyed_names());
        let (this, key) = match self.key_has_self() {
            true => (quote!(&self,), quote!(self.#key_name(#(#names),*))),
            false => (quote!(), quote!(Self::#key_name(#(#names),*))),
        };
        match self.cache_is_argument {
            true => (quote!(#this __cache: &#types::Cache), quote!(__cache.invalidate(&#key).await)),
            false => (quote!(#receiver), quote!((#cache).invalidate(&#key).await)),
        }
    }

    fn key_has_self(&self) -> bool {
        self.template.iter().flatten().any(|piece| piece.field().is_some())
    }

    fn all_inputs(&self) -> Vec<TokenStream> {
        self.inputs.iter().map(Input::declaration).collect()
    }

    fn keyed_inputs(&self) -> Vec<TokenStream> {
        self.inputs.iter().filter(|input| input.keyed).map(Input::key_declaration).collect()
    }

    fn keyed_names(&self) -> Vec<&Ident> {
        self.inputs.iter().filter(|input| input.keyed).map(Input::key_name).collect()
    }
}

const KEY_DOC: &str = "The key of the entry of these arguments.";
const REFRESH_DOC: &str = "Loads the value anew, whatever is there, and stores it.";

impl Input {
    fn declaration(&self) -> TokenStream {
        let Self { name, ty, .. } = self;
        quote!(#name: #ty)
    }

    fn key_declaration(&self) -> TokenStream {
        match &self.element {
            None => self.declaration(),
            Some(Element { name, ty }) => quote!(#name: #ty),
        }
    }
}

/// The code that evaluates the settings, before the arguments are moved to the load or become owned; and the settings of the
/// call, except for the tags and the settings for `None`.
fn settings(arguments: &Arguments, output: &Type) -> (TokenStream, TokenStream) {
    let durations = [
        ("ttl", &arguments.ttl),
        ("stale_while_revalidate", &arguments.stale_while_revalidate),
        ("stale_if_error", &arguments.stale_if_error),
        ("keep", &arguments.keep),
        ("soft_timeout", &arguments.soft_timeout),
    ];
    let durations =
        durations.into_iter().filter_map(|(setter, setting)| Some((setter, vec![duration(setting.as_ref()?)])));
    let values =
        [("jitter", &arguments.jitter), ("early_refresh", &arguments.early_refresh), ("fallback", &arguments.fallback)];
    let values = values.into_iter().filter_map(|(setter, setting)| {
        let value = setting.as_ref()?;
        Some((setter, vec![quote!(#value)]))
    });
    let back_off = arguments.failure_backoff.as_ref();
    let back_off = back_off.map(|(first, longest)| ("failure_backoff", vec![duration(first), duration(longest)]));
    let hard_timeout = arguments.hard_timeout.as_ref().map(|(limit, error)| {
        let error = quote_spanned!(output.span()=> ::cache_layer::__cached::timed_out::<#output>(#error));
        ("hard_timeout", vec![duration(limit), error])
    });
    let (before, calls): (TokenStream, TokenStream) = durations
        .chain(values)
        .chain(back_off)
        .chain(hard_timeout)
        .map(|(setter, values)| {
            // An error of types is to be reported where the value is written.
            let name = |(place, value): (usize, &TokenStream)| {
                let span = Span::call_site().located_at(value.span());
                Ident::new(&format!("__{setter}_{place}"), span)
            };
            let names: Vec<Ident> = values.iter().enumerate().map(name).collect();
            let setter = format_ident!("{setter}");
            (quote!(#(let #names = #values;)*), quote!(.#setter(#(#names),*)))
        })
        .unzip();
    let lock = arguments.lock.as_ref().map(|Lock(variant)| quote!(.lock(::cache_layer::__cached::Lock::#variant)));
    let negative_ttl = arguments.negative_ttl.as_ref().map(|ttl| {
        let ttl = duration(ttl);
        quote!(let __negative_ttl = #ttl;)
    });
    (quote!(#before #negative_ttl), quote!(#calls #lock))
}

fn duration(duration: &Duration) -> TokenStream {
    match duration {
        Duration::Milliseconds(milliseconds) => quote!(::cache_layer::__cached::Duration::from_millis(#milliseconds)),
        Duration::Expression(expression) => quote!(#expression),
    }
}
