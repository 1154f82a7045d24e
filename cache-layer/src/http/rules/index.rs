//! Finds the rule that applies to a request: the most specific one that matches.
//!
//! Hosts are compared before paths, and paths before methods, as in the routes of a gateway. Of two paths, the first segment in
//! which they differ decides: a literal segment comes before `{any}`, and a pattern that ends here before one that continues.

use http::Method;

use super::{
    name_table::{Name, NameTable},
    path_pattern::{PathPattern, Segment, Tail},
};

/// The requests that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) host: HostPattern,
    pub(super) path: PathPattern,
    /// Sorted; an empty list means all methods. HEAD counts as GET.
    pub(super) methods: Vec<Method>,
}

/// Names of hosts, in lower case and without a default port; the most specific first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostPattern {
    Exact(Box<str>),
    /// All hosts below a domain: `.shop.example`.
    Below(Box<str>),
    Any,
}

/// The numbers of the rules, indexed so that a look-up does not examine all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    hosts: NameTable<Node>,
    /// The longest first.
    domains: Vec<(Box<str>, Node)>,
    any: Node,
}

/// A node of the tree: all patterns that begin with the same segments.
#[derive(Clone, Debug, Default)]
struct Node {
    literals: NameTable<Self>,
    any: Option<Box<Self>>,
    ends: Leaf,
    /// Few have any.
    open: Option<Box<Open>>,
}

/// The rules for what goes on.
#[derive(Clone, Debug, Default)]
struct Open {
    below: Leaf,
    prefix: Leaf,
}

/// The rules whose hosts and paths are the same.
#[derive(Clone, Debug, Default)]
struct Leaf {
    of_methods: Vec<(Vec<Method>, usize)>,
    of_all: Option<usize>,
}

impl Index {
    /// Adds a rule. On conflict, returns the number of a rule for some of the same requests that is neither more nor less
    /// specific.
    pub(super) fn insert(&mut self, scope: &Scope, number: usize) -> Result<(), usize> {
        let mut node = match &scope.host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(host) => self.hosts.get_or_insert(host.as_bytes()),
            HostPattern::Below(domain) => {
                let at = self.domains.iter().position(|(known, _)| known == domain).unwrap_or_else(|| {
                    let at = self.domains.partition_point(|(known, _)| known.len() >= domain.len());
                    self.domains.insert(at, (domain.clone(), Node::default()));
                    at
                });
                &mut self.domains[at].1
            }
        };
        for segment in &scope.path.segments {
            node = match segment {
                Segment::Literal(text) => node.literals.get_or_insert(text.as_bytes()),
                Segment::Any => node.any.get_or_insert_default(),
            };
        }
        let leaf = match scope.path.tail {
            Tail::End => &mut node.ends,
            Tail::Below => &mut node.open.get_or_insert_default().below,
            Tail::Prefix => &mut node.open.get_or_insert_default().prefix,
        };
        leaf.insert(&scope.methods, number)
    }

    /// The number of the rule that applies to a request, by its host, the segments of its path and its method.
    #[inline(always)]
    pub(super) fn find<'h, 'p>(
        &self,
        host: impl FnOnce() -> &'h str,
        path: impl Iterator<Item = &'p [u8]> + Clone,
        method: &Method,
    ) -> Option<usize> {
        // HEAD is answered like GET.
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        if self.hosts.is_empty() && self.domains.is_empty() {
            return self.any.find(path, method);
        }
        self.find_by_host(host(), &path, method)
    }

    #[inline(never)]
    fn find_by_host<'p>(
        &self,
        host: &str,
        path: &(impl Iterator<Item = &'p [u8]> + Clone),
        method: &Method,
    ) -> Option<usize> {
        let of_host = || self.hosts.get(Name::of(host.as_bytes()))?.find(path.clone(), method);
        let of_domain = || {
            let mut domains = self.domains.iter().filter(|(domain, _)| is_below(host, domain));
            domains.find_map(|(_, node)| node.find(path.clone(), method))
        };
        of_host().or_else(of_domain).or_else(|| self.any.find(path.clone(), method))
    }
}

fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|name| !name.is_empty())
}

impl Node {
    /// The most special rule at this node and below for what is left of a path. No node is looked at twice: its place says how
    /// many segments lead to it.
    #[inline(always)]
    fn find<'p>(&self, mut path: impl Iterator<Item = &'p [u8]> + Clone, method: &Method) -> Option<usize> {
        let (mut node, mut less_special) = (self, None);
        while let Some(segment) = path.next() {
            if let Some(Open { below, prefix }) = node.open.as_deref() {
                less_special = below.find(method).or_else(|| prefix.find(method)).or(less_special);
            }
            let literal = if node.literals.is_empty() { None } else { node.literals.get(Name::of(segment)) };
            node = match (literal, node.any.as_deref()) {
                (None, None) => return less_special,
                (Some(only), None) | (None, Some(only)) => only,
                (Some(literal), Some(any)) => match literal.find_below(path.clone(), method) {
                    None => any,
                    found => return found,
                },
            };
        }
        match (node.ends.find(method), node.open.as_deref()) {
            (None, Some(open)) => open.prefix.find(method).or(less_special),
            (None, None) => less_special,
            (found, _) => found,
        }
    }

    /// As [`find`](Self::find), as a function of its own, which calls itself.
    #[inline(never)]
    fn find_below<'p>(&self, path: impl Iterator<Item = &'p [u8]> + Clone, method: &Method) -> Option<usize> {
        self.find(path, method)
    }
}

impl Leaf {
    fn insert(&mut self, methods: &[Method], number: usize) -> Result<(), usize> {
        if methods.is_empty() {
            return match self.of_all {
                Some(known) => Err(known),
                None => {
                    self.of_all = Some(number);
                    Ok(())
                }
            };
        }
        let shares = |known: &[Method]| known.iter().any(|method| methods.contains(method));
        if let Some((_, known)) = self.of_methods.iter().find(|(known, _)| shares(known)) {
            return Err(*known);
        }
        self.of_methods.push((methods.to_vec(), number));
        Ok(())
    }

    #[inline(always)]
    fn find(&self, method: &Method) -> Option<usize> {
        if self.of_methods.is_empty() { self.of_all } else { self.find_of(method) }
    }

    fn find_of(&self, method: &Method) -> Option<usize> {
        let given = self.of_methods.iter().find(|(methods, _)| methods.contains(method));
        given.map(|(_, number)| *number).or(self.of_all)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;
    use crate::http::rules::path_pattern::with_segments;

    /// A scope as its parts are written, to be matched by a reader who takes it literally.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Written {
        host: &'static str,
        path: &'static str,
        prefix: bool,
        methods: &'static [&'static str],
    }

    impl Written {
        fn scope(&self) -> Scope {
            let host = match self.host {
                "" => HostPattern::Any,
                host => host
                    .strip_prefix('*')
                    .map_or_else(|| HostPattern::Exact(host.into()), |domain| HostPattern::Below(domain.into())),
            };
            let parse = if self.prefix { PathPattern::parse_prefix } else { PathPattern::parse };
            let methods = self.methods.iter().map(|method| method.parse().unwrap()).collect();
            Scope { host, path: parse(self.path).unwrap(), methods }
        }

        fn matches(&self, (host, path, method): (&str, &str, &str)) -> bool {
            let method = method.replace("HEAD", "GET");
            (self.methods.is_empty() || self.methods.contains(&&*method))
                && self.matches_host(host)
                && self.matches_path(path)
        }

        fn matches_host(&self, host: &str) -> bool {
            match self.host.strip_prefix('*') {
                Some(domain) => host.len() > domain.len() && host.ends_with(domain),
                None => self.host.is_empty() || self.host == host,
            }
        }

        fn matches_path(&self, path: &str) -> bool {
            let segments = |path: &'static str| path.split('/').filter(|segment| !segment.is_empty());
            let mut rest = path.split('/').filter(|segment| !segment.is_empty());
            for wanted in segments(self.path) {
                match (wanted, rest.next()) {
                    (_, None) => return false,
                    ("{*r}", Some(_)) => return true,
                    ("{x}", Some(_)) => {}
                    (wanted, Some(segment)) if wanted == segment => {}
                    _ => return false,
                }
            }
            self.prefix || rest.next().is_none()
        }

        /// What makes it more special than another one that matches the same request: larger is more.
        fn rank(&self) -> (Reverse<usize>, usize, Vec<u8>, bool) {
            let segments = self.path.split('/').filter(|segment| !segment.is_empty());
            let mut ranks: Vec<u8> = segments
                .map(|segment| match segment {
                    "{*r}" => 2,
                    "{x}" => 4,
                    _ => 5,
                })
                .collect();
            if ranks.last() != Some(&2) {
                ranks.push(if self.prefix { 1 } else { 3 });
            }
            let host_kind = match self.host {
                "" => 2,
                host if host.starts_with('*') => 1,
                _ => 0,
            };
            (Reverse(host_kind), self.host.len(), ranks, !self.methods.is_empty())
        }

        /// Whether both are for the same requests, in part at least, and neither is more special.
        fn clashes(&self, other: &Self) -> bool {
            let both = self.methods.iter().any(|method| other.methods.contains(method));
            self.rank() == other.rank()
                && self.scope().path == other.scope().path
                && self.host == other.host
                && (both || (self.methods.is_empty() && other.methods.is_empty()))
        }
    }

    const PATHS: [(&str, bool); 21] = [
        ("/", false),
        ("/", true),
        ("/{*r}", false),
        ("/a", false),
        ("/a", true),
        ("/a/{*r}", false),
        ("/{x}", false),
        ("/{x}", true),
        ("/{x}/{*r}", false),
        ("/a/a", false),
        ("/a/a", true),
        ("/a/a/{*r}", false),
        ("/a/{x}", false),
        ("/a/{x}", true),
        ("/a/{x}/{*r}", false),
        ("/{x}/a", false),
        ("/{x}/a", true),
        ("/{x}/a/{*r}", false),
        ("/{x}/{x}", false),
        ("/{x}/{x}", true),
        ("/{x}/{x}/{*r}", false),
    ];

    /// All paths of the segments `a` and `b`, up to three.
    fn requested_paths() -> Vec<String> {
        let mut paths = vec![String::new()];
        let mut from = 0;
        for _ in 0..3 {
            let to = paths.len();
            for at in from..to {
                for segment in ["/a", "/b"] {
                    paths.push(format!("{}{segment}", paths[at]));
                }
            }
            from = to;
        }
        paths[0] = "/".to_owned();
        let with_slash: Vec<_> = paths[1..].iter().map(|path| format!("{path}/")).collect();
        paths.extend(with_slash);
        paths
    }

    /// Compares what the index finds with what the reader finds, for every request.
    fn compare(rules: &[Written], requests: &[(&str, &str, &str)]) {
        let mut index = Index::default();
        let mut known: Vec<Written> = Vec::new();
        for rule in rules {
            let clash = known.iter().position(|other| other.clashes(rule));
            assert_eq!(index.insert(&rule.scope(), known.len()).err(), clash, "{rule:?} after {known:?}");
            if clash.is_none() {
                known.push(*rule);
            }
        }
        for &request in requests {
            let (host, path, method) = request;
            let best = (0..known.len()).filter(|&at| known[at].matches(request)).max_by_key(|&at| known[at].rank());
            let method = method.parse().unwrap();
            let found = with_segments(path, |path| index.find(|| host, path, &method));
            assert_eq!(found, Some(best), "{request:?} with {known:?}");
        }
    }

    fn all_requests<'a>(
        hosts: &[&'a str],
        paths: &'a [String],
        methods: &[&'a str],
    ) -> Vec<(&'a str, &'a str, &'a str)> {
        let of_host =
            |host| paths.iter().flat_map(move |path| methods.iter().map(move |method| (host, &**path, *method)));
        hosts.iter().copied().flat_map(of_host).collect()
    }

    #[test]
    fn every_pair_of_rules_is_read_as_it_is_written() {
        let paths = requested_paths();
        let requests = all_requests(&["x.y", "w.x.y", "z"], &paths, &["GET", "POST"]);
        let of = |(path, prefix)| {
            let hosts = ["", "x.y", "*.y", "*.x.y"].into_iter();
            hosts.flat_map(move |host| {
                [&[][..], &["GET"], &["GET", "POST"]].map(|methods| Written { host, path, prefix, methods })
            })
        };
        // Those that tell paths apart are in the next test.
        let scopes: Vec<Written> =
            [PATHS[1], PATHS[3], PATHS[4], PATHS[8], PATHS[12]].into_iter().flat_map(of).collect();
        for one in &scopes {
            for other in &scopes {
                compare(&[*one, *other], &requests);
            }
        }
    }

    #[test]
    fn every_three_paths_are_read_as_they_are_written() {
        let paths = requested_paths();
        let requests = all_requests(&["x.y"], &paths, &["HEAD"]);
        let of = |at: usize| {
            let (path, prefix) = PATHS[at];
            Written { host: "", path, prefix, methods: &[] }
        };
        for one in 0..PATHS.len() {
            for two in 0..PATHS.len() {
                for three in 0..PATHS.len() {
                    compare(&[of(one), of(two), of(three)], &requests);
                }
            }
        }
    }

    #[test]
    fn a_rule_of_one_method_leaves_the_others_to_less_special_ones() {
        let post = Written { host: "x.y", path: "/a/a", prefix: false, methods: &["POST"] };
        let rest = Written { host: "", path: "/", prefix: true, methods: &[] };
        let paths = requested_paths();
        compare(&[post, rest], &all_requests(&["x.y", "z"], &paths, &["GET", "HEAD", "POST", "PUT"]));
    }
}
