package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// example is the least that a file must say.
const example = `apiVersion: hactl/v1alpha1
kind: Cluster
name: prod
masters:
  - {name: m1, address: 10.245.1.11}
  - {name: m2, address: 10.245.1.12}
  - {name: m3, address: 10.245.1.13}
`

func TestTheDefaultsFileIsTheDefaults(t *testing.T) {
	got, err := Parse("defaults.yaml", DefaultsYAML())
	if err != nil {
		t.Fatal(err)
	}
	want, err := Parse("example", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if w := got.Warnings(); len(w) > 0 {
		t.Errorf("the defaults warn: %v", w)
	}
}

// Uncommented, the examples of the defaults file load too (after picking
// masters or discovery), and together they name every field there is.
func TestTheDefaultsFileNamesEveryField(t *testing.T) {
	text := strings.NewReplacer("#- ", "", "[Node, RBAC]", "[Node, RBAC, ABAC]").Replace(string(DefaultsYAML()))
	_, err := Parse("defaults.yaml", []byte(text))
	faults := FieldErrors(err)
	if len(faults) != 1 || faults[0].Path != "discovery" {
		t.Fatalf("uncommented: %v; want only masters with discovery", err)
	}
	var walk func(reflect.Type)
	walk = func(ty reflect.Type) {
		for ty.Kind() == reflect.Pointer || ty.Kind() == reflect.Slice {
			ty = ty.Elem()
		}
		if ty.Kind() != reflect.Struct {
			return
		}
		for i := range ty.NumField() {
			name, _, _ := strings.Cut(ty.Field(i).Tag.Get("yaml"), ",")
			if !strings.Contains(text, name+":") {
				t.Errorf("%s.%s: field %s is not in the file", ty.Name(), ty.Field(i).Name, name)
			}
			walk(ty.Field(i).Type)
		}
	}
	walk(reflect.TypeFor[Cluster]())
}

// docs/config.md has a row for every field.
func TestTheDocsNameEveryField(t *testing.T) {
	doc, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(reflect.Type, string)
	walk = func(ty reflect.Type, path string) {
		switch ty.Kind() {
		case reflect.Pointer:
			walk(ty.Elem(), path)
		case reflect.Slice:
			walk(ty.Elem(), path+"[]")
		case reflect.Struct:
			for i := range ty.NumField() {
				name, _, _ := strings.Cut(ty.Field(i).Tag.Get("yaml"), ",")
				walk(ty.Field(i).Type, join(path, name))
			}
		default:
			if !strings.Contains(string(doc), "| `"+path+"` |") {
				t.Errorf("no row for %s", path)
			}
		}
	}
	walk(reflect.TypeFor[Cluster](), "")
}
