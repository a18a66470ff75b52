package config

import (
	"bytes"
	_ "embed"
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

//go:embed defaults.yaml
var defaultsYAML []byte

// DefaultsYAML is a commented file with every field: the defaults, and an
// example where there is none (name, masters). It loads.
func DefaultsYAML() []byte { return bytes.Clone(defaultsYAML) }

// Marshal writes c as a file that Parse reads back to the same Cluster, in one
// form for one content: the bytes of two masters can be compared.
func Marshal(c *Cluster) ([]byte, error) {
	n, err := encode(reflect.ValueOf(c).Elem())
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(n); err != nil {
		return nil, fmt.Errorf("marshal the configuration: %w", err)
	}
	return b.Bytes(), enc.Close()
}

// encode mirrors decoder.value.
func encode(v reflect.Value) (*yaml.Node, error) {
	if d, ok := v.Interface().(time.Duration); ok {
		return scalarNode("!!str", formatDuration(d)), nil
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if err != nil {
			return nil, err
		}
		return scalarNode("!!str", string(text)), nil
	}
	switch v.Kind() {
	case reflect.Pointer:
		return encode(v.Elem())
	case reflect.Struct:
		return encodeStruct(v)
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v.Len() == 0 {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			item, err := encode(v.Index(i))
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		return n, nil
	case reflect.Map:
		n := &yaml.Node{Kind: yaml.MappingNode}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			n.Content = append(n.Content, scalarNode("!!str", key.String()), scalarNode("!!str", v.MapIndex(key).String()))
		}
		return n, nil
	case reflect.Int:
		return scalarNode("!!int", strconv.FormatInt(v.Int(), 10)), nil
	case reflect.String:
		return scalarNode("!!str", v.String()), nil
	default:
		return nil, fmt.Errorf("marshal the configuration: no notation for %s", v.Type())
	}
}

func encodeStruct(v reflect.Value) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i := range v.NumField() {
		name, opts, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		f := v.Field(i)
		empty := f.IsZero() || (f.Kind() == reflect.Map || f.Kind() == reflect.Slice) && f.Len() == 0
		if empty && opts == "omitempty" {
			continue
		}
		item, err := encode(f)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, scalarNode("!!str", name), item)
	}
	return n, nil
}

func scalarNode(tag, value string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode}
	n.SetString(value) // quotes what would be read as something else
	n.Tag = tag
	return n
}
