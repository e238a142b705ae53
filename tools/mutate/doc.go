// Command mutate removes guards and plants bugs, one at a time, and reports whether the test that should notice does.
//
// A mutant is a patch below mutants/, with a sentence in front that says what it breaks; mutants/index.txt says which test
// must fail with it. The tree is not touched: Go builds with the changed files laid over it (go build -overlay). A patch
// that does not apply, a tree that does not build, and a test that fails without any mutant are errors, not catches.
//
//	go run ./tools/mutate [-run REGEXP] [-jobs N] [-timeout D]
package main
