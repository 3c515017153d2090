package flashmla_test

import (
	"debug/elf"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"flashmla"
)

// What a symbol of the library is in Go.
var faces = map[string]any{
	"flashmla_version":     flashmla.Version,
	"flashmla_status_name": flashmla.Status.String,
	// Messages are by thread and goroutines are not: each comes with its error.
	"flashmla_last_error":      (&flashmla.Error{}).Message,
	"flashmla_create":          flashmla.Open,
	"flashmla_destroy":         (*flashmla.Context).Close,
	"flashmla_get_device_info": (*flashmla.Context).DeviceInfo,

	"flashmla_dense_decode":                (*flashmla.Context).DenseDecode,
	"flashmla_dense_decode_plan":           (*flashmla.Context).DenseDecodePlan,
	"flashmla_dense_decode_plan_size":      (*flashmla.Context).DenseDecodePlanSize,
	"flashmla_dense_decode_query":          (*flashmla.Context).DenseDecodeQuery,
	"flashmla_dense_decode_workspace_size": (*flashmla.Context).DenseDecodeWorkspaceSize,

	"flashmla_sparse_decode":                (*flashmla.Context).SparseDecode,
	"flashmla_sparse_decode_plan":           (*flashmla.Context).SparseDecodePlan,
	"flashmla_sparse_decode_plan_size":      (*flashmla.Context).SparseDecodePlanSize,
	"flashmla_sparse_decode_query":          (*flashmla.Context).SparseDecodeQuery,
	"flashmla_sparse_decode_workspace_size": (*flashmla.Context).SparseDecodeWorkspaceSize,

	"flashmla_kv_cache_append": (*flashmla.Context).KVCacheAppend,
	"flashmla_kv_cache_gather": (*flashmla.Context).KVCacheGather,
	"flashmla_map_indices":     (*flashmla.Context).MapIndices,

	"flashmla_sparse_prefill":                (*flashmla.Context).SparsePrefill,
	"flashmla_sparse_prefill_query":          (*flashmla.Context).SparsePrefillQuery,
	"flashmla_sparse_prefill_workspace_size": (*flashmla.Context).SparsePrefillWorkspaceSize,
}

// fromTree reads a file of the source tree.
func fromTree(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", path))
	if os.IsNotExist(err) {
		t.Skipf("%s: not in the source tree", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The golden list of symbols is what has a face here, and what this program asks the loader for. (Tests can't use cgo:
// it is the package that asks.)
func TestEverySymbolHasAFace(t *testing.T) {
	symbols := strings.Fields(fromTree(t, "tests/c/symbols.txt"))
	here := slices.Sorted(maps.Keys(faces))
	if !slices.Equal(symbols, here) {
		t.Errorf("tests/c/symbols.txt has\n%s\nand in Go there are\n%s", strings.Join(symbols, "\n"), strings.Join(here, "\n"))
	}
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	imported, err := program.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, symbol := range symbols {
		if !slices.ContainsFunc(imported, func(s elf.ImportedSymbol) bool { return s.Name == symbol }) {
			t.Errorf("nothing in the package calls %s", symbol)
		}
	}
}

// sources are the files of the package without its tests.
func sources(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(file string) bool { return strings.HasSuffix(file, "_test.go") })
	if len(files) == 0 {
		t.Skip("not in the source tree")
	}
	return files
}

// source is their text.
func source(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, file := range sources(t) {
		part, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(part)
	}
	return text.String()
}

// Every macro that is a number is a constant of the package.
func TestEveryConstantHasAFace(t *testing.T) {
	code := source(t)
	constants := regexp.MustCompile(`(?m)^#define (FLASHMLA_\w+) -?\d+$`).FindAllStringSubmatch(
		fromTree(t, "include/flashmla.h"), -1)
	for _, c := range constants {
		if !regexp.MustCompile(`\bC\.` + c[1] + `\b`).MatchString(code) {
			t.Errorf("%s is not in the package", c[1])
		}
	}
	if len(constants) < 30 {
		t.Errorf("%d constants: is the header read rightly?", len(constants))
	}
}

// Every member of every struct is compared with C's in layout.go, or copied by its name.
func TestEveryMemberHasAFace(t *testing.T) {
	code := source(t)
	structs := regexp.MustCompile(`(?ms)^typedef struct (\w+) \{$(.*?)^\} `).FindAllStringSubmatch(
		fromTree(t, "include/flashmla.h"), -1)
	member := regexp.MustCompile(`(?m)^    \w.*?(\w+)(?:\[\d+\])?;$`)
	members := 0
	for _, s := range structs {
		laidOut := strings.Contains(code, "unsafe.Sizeof(C."+s[1]+"{})]")
		for _, m := range member.FindAllStringSubmatch(s[2], -1) {
			members++
			if laidOut {
				for _, check := range []string{"unsafe.Offsetof(C.", "unsafe.Sizeof(C."} {
					if !strings.Contains(code, check+s[1]+"{}."+m[1]+")]") {
						t.Errorf("layout.go does not compare %s.%s", s[1], m[1])
					}
				}
			} else if m[1] != "struct_size" && m[1] != "reserved" &&
				!regexp.MustCompile(`\b(info|options)\.`+m[1]+`\b`).MatchString(code) {
				t.Errorf("%s.%s is not in the package", s[1], m[1])
			}
		}
	}
	if members < 40 {
		t.Errorf("%d members: is the header read rightly?", members)
	}
}
