package flashmla_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"
)

// go doc has something to say about everything that it lists.
func TestEverythingIsDocumented(t *testing.T) {
	files := token.NewFileSet()
	sources := sources(t)
	checked := 0
	check := func(name *ast.Ident, comments ...*ast.CommentGroup) {
		if !name.IsExported() {
			return
		}
		checked++
		for _, c := range comments {
			if c != nil {
				return
			}
		}
		t.Errorf("%s: %s says nothing of itself", files.Position(name.Pos()), name.Name)
	}
	for _, path := range sources {
		file, err := parser.ParseFile(files, path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				check(d.Name, d.Doc)
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						check(s.Name, d.Doc, s.Doc)
					case *ast.ValueSpec:
						for _, name := range s.Names {
							check(name, d.Doc, s.Doc, s.Comment)
						}
					}
				}
			}
		}
	}
	if checked < 50 {
		t.Errorf("%d names: is the package read rightly?", checked)
	}
}
