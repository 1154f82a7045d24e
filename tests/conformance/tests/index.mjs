// Tests of our own, in the format of the suite, for what it has none of: to be offered to it.
import groups from './groups.mjs';
import noVarySearch from './no-vary-search.mjs';
import other from './other.mjs';
import query from './query.mjs';

export default [query, noVarySearch, groups, other];
