package client_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every exported name of the package has a comment: types, their fields, functions, methods, constants and variables.
func TestEveryExportedNameIsDocumented(t *testing.T) {
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	fset := token.NewFileSet()
	names := 0
	check := func(name *ast.Ident, comments ...*ast.CommentGroup) {
		if !name.IsExported() {
			return
		}
		names++
		for _, c := range comments {
			if c != nil {
				return
			}
		}
		t.Errorf("%s: %s has no comment", fset.Position(name.Pos()), name.Name)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, e.Name(), nil, parser.ParseComments)
		require.NoError(t, err)
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil || receiverIsExported(d) {
					check(d.Name, d.Doc)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					checkSpec(d, spec, check)
				}
			}
		}
	}
	require.Greater(t, names, 200)
}

func receiverIsExported(d *ast.FuncDecl) bool {
	of := d.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	name, ok := of.(*ast.Ident)
	return ok && name.IsExported()
}

func checkSpec(d *ast.GenDecl, spec ast.Spec, check func(*ast.Ident, ...*ast.CommentGroup)) {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range s.Names {
			check(name, s.Doc, s.Comment, d.Doc)
		}
	case *ast.TypeSpec:
		check(s.Name, s.Doc, d.Doc)
		st, ok := s.Type.(*ast.StructType)
		if !ok || !s.Name.IsExported() {
			return
		}
		for _, field := range st.Fields.List {
			for _, name := range field.Names {
				check(name, field.Doc, field.Comment)
			}
		}
	}
}
