// SPDX-License-Identifier: Apache-2.0

// Package exports keeps what the product's packages export to what another package uses.
package exports

import (
	"fmt"
	"go/ast"
	"go/types"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

const product = "github.com/istiod-agent/istiod-agent"

// TestExports fails for an exported name of the product that no other package of the repository uses:
// such a name is unexported, or deleted. What a used name is made of counts as used: the types of its
// signature and fields, and the constants of its type. The packages below api/ are for others to import and
// are left out. Struct fields are left out too: encoders reach them by their tags.
func TestExports(t *testing.T) {
	loaded := slices.Concat(load(t, "../.."), load(t, "../../traffic"), load(t, "../../e2e"))
	for _, name := range unused(loaded) {
		t.Errorf("%s is exported and no other package uses it: unexport or delete it", name)
	}
}

// TestUnused holds the search itself to a package whose answers are known.
func TestUnused(t *testing.T) {
	loaded := load(t, "testdata/module")
	got := unused(loaded)
	want := []string{"example.test/module/a.Left", "example.test/module/a.OnlyTested", "example.test/module/a.Thing.Unused"}
	if !slices.Equal(got, want) {
		t.Errorf("unused exports:\n got %q\nwant %q", got, want)
	}
}

func load(t *testing.T, dir string) []*packages.Package {
	t.Helper()
	loaded, err := packages.Load(&packages.Config{
		Dir:   dir,
		Tests: true,
		Mode: packages.NeedName | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedSyntax |
			packages.NeedImports | packages.NeedFiles | packages.NeedModule,
	}, "./...")
	if err != nil {
		t.Fatal(err)
	}
	for _, loadedPackage := range loaded {
		for _, err := range loadedPackage.Errors {
			t.Fatalf("load %s: %v", loadedPackage.PkgPath, err)
		}
	}
	return loaded
}

// unused gives the exported names, as package.Name or package.Type.Method, that only their own package
// or its tests use. A method that an interface asks for counts as used.
func unused(loaded []*packages.Package) []string {
	declared := map[string]types.Object{}
	used := map[string]bool{}
	interfaces := interfacesOf(loaded)
	for _, loadedPackage := range loaded {
		own := packagePath(loadedPackage.Types)
		for _, object := range loadedPackage.TypesInfo.Uses {
			if object.Pkg() != nil && packagePath(object.Pkg()) != own {
				used[key(object)] = true
			}
		}
		if !examined(loadedPackage) {
			continue
		}
		for _, file := range loadedPackage.Syntax {
			if strings.HasSuffix(loadedPackage.Fset.Position(file.Package).Filename, "_test.go") {
				continue
			}
			for _, object := range exported(file, loadedPackage.TypesInfo) {
				if !asked(object, interfaces) {
					declared[key(object)] = object
				}
			}
		}
	}
	names := slices.Sorted(maps.Keys(declared))
	for grown := true; grown; {
		grown = false
		for _, name := range names {
			object := declared[name]
			if constant, ok := object.(*types.Const); ok && !used[name] && namedType(constant.Type()) != nil {
				used[name] = used[key(namedType(constant.Type()).Obj())]
			}
			if !used[name] {
				continue
			}
			for _, part := range parts(object) {
				if !used[part] {
					used[part], grown = true, true
				}
			}
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { return used[name] })
}

// parts gives the keys of the named types that an object's type shows: in a signature, in exported fields,
// in the methods of an interface.
func parts(object types.Object) []string {
	var found []string
	seen := map[types.Type]bool{}
	var walk func(types.Type)
	walk = func(of types.Type) {
		if seen[of] {
			return
		}
		seen[of] = true
		switch of := of.(type) {
		case *types.Named:
			if of.Obj().Pkg() != nil {
				found = append(found, key(of.Obj()))
			}
			for argument := range of.TypeArgs().Types() {
				walk(argument)
			}
		case interface{ Elem() types.Type }: // pointers, slices, arrays, maps, channels
			walk(of.Elem())
			if keyed, ok := of.(*types.Map); ok {
				walk(keyed.Key())
			}
		case *types.Signature:
			walk(of.Params())
			walk(of.Results())
		case *types.Tuple:
			for variable := range of.Variables() {
				walk(variable.Type())
			}
		case *types.Struct:
			for field := range of.Fields() {
				if field.Exported() {
					walk(field.Type())
				}
			}
		case *types.Interface:
			for method := range of.Methods() {
				walk(method.Type())
			}
		}
	}
	walk(object.Type())
	if _, ok := object.(*types.TypeName); ok {
		walk(object.Type().Underlying())
	}
	return found
}

// examined reports whether what a package exports is held to its uses.
func examined(loadedPackage *packages.Package) bool {
	path := packagePath(loadedPackage.Types)
	return loadedPackage.Name != "main" && !strings.HasPrefix(path, product+"/api/") && !strings.HasPrefix(path, product+"/e2e/")
}

// packagePath gives a package's import path; that of an external test package is its package's.
func packagePath(declaring *types.Package) string {
	path, _, _ := strings.Cut(declaring.Path(), " ")
	return strings.TrimSuffix(path, "_test")
}

// exported gives the exported package-level names and methods that a file declares.
func exported(file *ast.File, info *types.Info) []types.Object {
	var objects []types.Object
	add := func(name *ast.Ident) {
		if object := info.Defs[name]; object != nil && name.IsExported() {
			objects = append(objects, object)
		}
	}
	for _, declaration := range file.Decls {
		switch declaration := declaration.(type) {
		case *ast.FuncDecl:
			if receiver := receiverName(info.Defs[declaration.Name]); receiver == "" || ast.IsExported(receiver) {
				add(declaration.Name)
			}
		case *ast.GenDecl:
			for _, spec := range declaration.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					add(spec.Name)
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						add(name)
					}
				}
			}
		}
	}
	return objects
}

func key(object types.Object) string {
	if function, ok := object.(*types.Func); ok {
		object = function.Origin()
	}
	if receiver := receiverName(object); receiver != "" {
		return fmt.Sprintf("%s.%s.%s", packagePath(object.Pkg()), receiver, object.Name())
	}
	return fmt.Sprintf("%s.%s", packagePath(object.Pkg()), object.Name())
}

// receiverName gives the name of the type that a method belongs to, and "" for anything else.
func receiverName(object types.Object) string {
	function, ok := object.(*types.Func)
	if !ok || function.Signature().Recv() == nil {
		return ""
	}
	if named := namedType(function.Signature().Recv().Type()); named != nil {
		return named.Obj().Name()
	}
	return ""
}

func namedType(of types.Type) *types.Named {
	if pointer, ok := of.(*types.Pointer); ok {
		of = pointer.Elem()
	}
	named, _ := of.(*types.Named)
	return named
}

// interfacesOf gives the interfaces that have methods: those of all packages that are loaded or imported, and
// those that a loaded package writes without a name.
func interfacesOf(loaded []*packages.Package) []*types.Interface {
	var found []*types.Interface
	seen := map[*types.Package]bool{}
	var visit func(*types.Package)
	visit = func(visited *types.Package) {
		if seen[visited] {
			return
		}
		seen[visited] = true
		for _, name := range visited.Scope().Names() {
			if named, ok := visited.Scope().Lookup(name).(*types.TypeName); ok {
				if shape, ok := named.Type().Underlying().(*types.Interface); ok && shape.NumMethods() > 0 {
					found = append(found, shape)
				}
			}
		}
		for _, imported := range visited.Imports() {
			visit(imported)
		}
	}
	found = append(found, types.Universe.Lookup("error").Type().Underlying().(*types.Interface), unwrapper())
	for _, loadedPackage := range loaded {
		visit(loadedPackage.Types)
		for _, written := range loadedPackage.TypesInfo.Types {
			if shape, ok := written.Type.(*types.Interface); ok && shape.NumMethods() > 0 {
				found = append(found, shape)
			}
		}
	}
	return found
}

// unwrapper is the interface that the package errors asks for without a name.
func unwrapper() *types.Interface {
	result := types.NewVar(0, nil, "", types.Universe.Lookup("error").Type())
	signature := types.NewSignatureType(nil, nil, nil, nil, types.NewTuple(result), false)
	return types.NewInterfaceType([]*types.Func{types.NewFunc(0, nil, "Unwrap", signature)}, nil).Complete()
}

// asked reports whether a method has its name from an interface that its type fulfils.
func asked(object types.Object, interfaces []*types.Interface) bool {
	function, ok := object.(*types.Func)
	if !ok || function.Signature().Recv() == nil {
		return false
	}
	named := namedType(function.Signature().Recv().Type())
	if named == nil {
		return false
	}
	return slices.ContainsFunc(interfaces, func(shape *types.Interface) bool {
		method, _, _ := types.LookupFieldOrMethod(shape, false, function.Pkg(), function.Name())
		return method != nil && (types.Implements(named, shape) || types.Implements(types.NewPointer(named), shape))
	})
}
