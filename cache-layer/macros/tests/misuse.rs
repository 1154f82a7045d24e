//! What is used wrongly is a compile error that says what to write.

#[test]
fn misuse_is_answered_with_what_to_write() {
    trybuild::TestCases::new().compile_fail("tests/misuse/*.rs");
}
