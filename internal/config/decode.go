package config

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder reads YAML files over one Cluster, one after the other, and keeps
// where each field was written. It is strict and goes on after a fault, so that
// all of them are told at once.
type decoder struct {
	file   string
	faults []*FieldError
	at     map[string]string // path → file:line of the value that won
}

func newDecoder() *decoder { return &decoder{at: map[string]string{}} }

// maxFile bounds what is read; a real file has a few kilobytes.
const maxFile = 1 << 20

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// read merges one file into c. An empty file changes nothing.
func (d *decoder) read(file string, data []byte, c *Cluster) {
	d.file = file
	if len(data) > maxFile {
		d.fault(nil, "", "", fmt.Errorf("the file has %d bytes; at most %d are read", len(data), maxFile))
		return
	}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return
	case err != nil:
		d.syntax(err)
		return
	}
	switch err := dec.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.syntax(err)
	default:
		d.fault(&second, "", "", errors.New("a second document begins here; a file holds one cluster"))
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return
	}
	d.value(root, reflect.ValueOf(c).Elem(), reflect.ValueOf(Default()).Elem(), "")
}

// syntax reports what the YAML parser did not understand.
func (d *decoder) syntax(err error) {
	at, msg := d.file, err.Error()
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		if m[1] != "" {
			at += ":" + m[1]
		}
		msg = m[2]
	}
	d.faults = append(d.faults, &FieldError{At: at, Err: fmt.Errorf("not YAML: %s", msg)})
}

func (d *decoder) fault(n *yaml.Node, path, value string, err error) {
	d.faults = append(d.faults, &FieldError{Path: path, Value: value, At: d.pos(n), Err: err})
}

func (d *decoder) pos(n *yaml.Node) string {
	if n == nil || n.Line == 0 {
		return d.file
	}
	return d.file + ":" + strconv.Itoa(n.Line)
}

// value decodes n into v, whose default is def.
func (d *decoder) value(n *yaml.Node, v, def reflect.Value, path string) {
	d.at[path] = d.pos(n)
	switch {
	case n.Kind == yaml.AliasNode:
		d.fault(n, path, "*"+n.Value, errors.New("aliases are not supported; write the value out"))
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n, path, n.Tag, errors.New("YAML tags are not supported; write the plain value"))
		return
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		v.Set(def) // "field:" without a value means the default
		return
	}
	if v.Type() == reflect.TypeFor[time.Duration]() || reflect.PointerTo(v.Type()).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		d.scalar(n, v, path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		// Decoded into a copy: what v points to may be shared with another Cluster.
		elem := reflect.New(v.Type().Elem())
		fresh := reflect.ValueOf(d.newElement(elem.Elem().Interface()))
		elem.Elem().Set(fresh)
		if !v.IsNil() {
			elem.Elem().Set(v.Elem())
		}
		d.value(n, elem.Elem(), fresh, path)
		v.Set(elem)
	case reflect.Struct:
		d.fields(n, v, def, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.Map:
		d.stringMap(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

// fields decodes a mapping into a struct: fields that it does not name stay.
func (d *decoder) fields(n *yaml.Node, v, def reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.mismatch(n, path, "a mapping of fields")
		return
	}
	index := make(map[string]int, v.NumField())
	names := make([]string, 0, v.NumField())
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		index[name] = i
		names = append(names, name)
	}
	d.pairs(n, path, func(key, val *yaml.Node, sub string) {
		i, known := index[key.Value]
		if !known {
			msg := "unknown field"
			if near := nearest(key.Value, names); near != "" {
				msg += "; did you mean " + near + "?"
			} else {
				msg += "; known here: " + strings.Join(names, ", ")
			}
			d.fault(key, sub, "", errors.New(msg))
			return
		}
		d.value(val, v.Field(i), def.Field(i), sub)
	})
}

// pairs calls f for each pair of a mapping and reports the keys that come twice
// or are no words.
func (d *decoder) pairs(n *yaml.Node, path string, f func(key, val *yaml.Node, sub string)) {
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.fault(key, path, "", errors.New("a field's name must be a word"))
			continue
		}
		if key.ShortTag() == "!!merge" {
			d.fault(key, path, "<<", errors.New("merge keys are not supported; write the fields out"))
			continue
		}
		sub := join(path, key.Value)
		if line, twice := lines[key.Value]; twice {
			d.fault(key, sub, "", fmt.Errorf("given twice; the first is in line %d", line))
			continue
		}
		lines[key.Value] = key.Line
		f(key, val, sub)
	}
}

// list decodes a sequence; it replaces what was there.
func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.mismatch(n, path, "a list")
		return
	}
	for p := range d.at {
		if strings.HasPrefix(p, path+"[") {
			delete(d.at, p)
		}
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		elem := list.Index(i)
		fresh := reflect.ValueOf(d.newElement(elem.Interface()))
		elem.Set(fresh)
		d.value(item, elem, fresh, fmt.Sprintf("%s[%d]", path, i))
	}
	if list.Len() == 0 {
		list = reflect.Zero(v.Type()) // one notation for "none", so that two Clusters can be compared
	}
	v.Set(list)
}

// stringMap merges a mapping of texts; a key without a value removes it.
func (d *decoder) stringMap(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.mismatch(n, path, "a mapping of names to values")
		return
	}
	merged := reflect.MakeMap(v.Type())
	for it := v.MapRange(); it.Next(); {
		merged.SetMapIndex(it.Key(), it.Value())
	}
	d.pairs(n, path, func(key, val *yaml.Node, sub string) {
		elem := reflect.New(v.Type().Elem()).Elem()
		if val.Kind == yaml.ScalarNode && val.ShortTag() == "!!null" {
			merged.SetMapIndex(reflect.ValueOf(key.Value), reflect.Value{})
			return
		}
		d.value(val, elem, elem, sub)
		merged.SetMapIndex(reflect.ValueOf(key.Value), elem)
	})
	v.Set(merged)
}

// scalar decodes a single value.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	want := "a text"
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		want = "a duration, as in 3s"
	case v.Type() == reflect.TypeFor[Size]():
		want = "a size, as in 8Gi"
	case v.Kind() == reflect.Int:
		want = "a whole number"
	}
	if n.Kind != yaml.ScalarNode {
		d.mismatch(n, path, want)
		return
	}
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		dur, err := time.ParseDuration(n.Value)
		if err != nil {
			err = errors.New("not a duration: write a number with its unit, as in 100ms, 3s, 1h")
			d.fault(n, path, n.Value, err)
			return
		}
		v.SetInt(int64(dur))
	case v.Type() == reflect.TypeFor[Size]():
		size, err := ParseSize(n.Value)
		if err != nil {
			d.fault(n, path, "", err)
			return
		}
		v.SetInt(int64(size))
	case v.Kind() == reflect.Int:
		var i int
		if n.ShortTag() != "!!int" || n.Decode(&i) != nil {
			d.mismatch(n, path, want)
			return
		}
		v.SetInt(int64(i))
	default:
		v.SetString(n.Value)
	}
}

// mismatch reports a value of another shape than its field.
func (d *decoder) mismatch(n *yaml.Node, path, want string) {
	is, value := "", ""
	switch n.Kind {
	case yaml.MappingNode:
		is = "a mapping"
	case yaml.SequenceNode:
		is = "a list"
	default:
		is, value = "a single value", n.Value
		if n.ShortTag() == "!!str" {
			is = "a text"
		}
	}
	d.fault(n, path, value, fmt.Errorf("must be %s, not %s", want, is))
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
