package compare

import "fmt"

// shapes collects a model's parameters.
type shapes struct{ list []Parameter }

func (s *shapes) add(name string, shape ...int64) {
	s.list = append(s.list, Parameter{Name: name, Shape: shape})
}

// linear adds torch.nn.Linear(in, out).
func (s *shapes) linear(name string, out, in int64) {
	s.add(name+".weight", out, in)
	s.add(name+".bias", out)
}

// norm adds a layer's scale and shift.
func (s *shapes) norm(name string, channels int64) {
	s.add(name+".weight", channels)
	s.add(name+".bias", channels)
}

// resnet50 is torchvision's resnet50().parameters(): 161 tensors, 25,557,032 elements.
func resnet50() *Model {
	s := &shapes{}
	s.add("conv1.weight", 64, 3, 7, 7)
	s.norm("bn1", 64)
	in := int64(64)
	for stage, blocks := range []int{3, 4, 6, 3} {
		width := int64(64) << stage
		for block := range blocks {
			name := fmt.Sprintf("layer%d.%d.", stage+1, block)
			for k, conv := range [][]int64{{width, in, 1, 1}, {width, width, 3, 3}, {4 * width, width, 1, 1}} {
				s.add(fmt.Sprintf("%sconv%d.weight", name, k+1), conv...)
				s.norm(fmt.Sprintf("%sbn%d", name, k+1), conv[0])
			}
			if block == 0 {
				s.add(name+"downsample.0.weight", 4*width, in, 1, 1)
				s.norm(name+"downsample.1", 4*width)
			}
			in = 4 * width
		}
	}
	s.linear("fc", 1000, 2048)
	return &Model{Name: "resnet50", Parameters: s.list}
}

// bertBase is transformers' BertModel of bert-base-uncased: 199 tensors, 109,482,240 elements.
func bertBase() *Model {
	const hidden, inner = 768, 3072
	s := &shapes{}
	s.add("embeddings.word_embeddings.weight", 30522, hidden)
	s.add("embeddings.position_embeddings.weight", 512, hidden)
	s.add("embeddings.token_type_embeddings.weight", 2, hidden)
	s.norm("embeddings.LayerNorm", hidden)
	for layer := range 12 {
		name := fmt.Sprintf("encoder.layer.%d.", layer)
		for _, part := range []string{"self.query", "self.key", "self.value", "output.dense"} {
			s.linear(name+"attention."+part, hidden, hidden)
		}
		s.norm(name+"attention.output.LayerNorm", hidden)
		s.linear(name+"intermediate.dense", inner, hidden)
		s.linear(name+"output.dense", hidden, inner)
		s.norm(name+"output.LayerNorm", hidden)
	}
	s.linear("pooler.dense", hidden, hidden)
	return &Model{Name: "bert-base", Parameters: s.list}
}

// gpt2 is transformers' GPT2LMHeadModel of gpt2, the output tied to the embedding: 148 tensors,
// 124,439,808 elements. Its Conv1D weights are [in, out].
func gpt2() *Model {
	const hidden = 768
	s := &shapes{}
	s.add("wte.weight", 50257, hidden)
	s.add("wpe.weight", 1024, hidden)
	for layer := range 12 {
		name := fmt.Sprintf("h.%d.", layer)
		conv := func(part string, in, out int64) {
			s.add(name+part+".weight", in, out)
			s.add(name+part+".bias", out)
		}
		s.norm(name+"ln_1", hidden)
		conv("attn.c_attn", hidden, 3*hidden)
		conv("attn.c_proj", hidden, hidden)
		s.norm(name+"ln_2", hidden)
		conv("mlp.c_fc", hidden, 4*hidden)
		conv("mlp.c_proj", 4*hidden, hidden)
	}
	s.norm("ln_f", hidden)
	return &Model{Name: "gpt2", Parameters: s.list}
}

// llamaLayer is one of the 32 decoder layers of Llama 7B: 9 tensors, 202,383,360 elements.
func llamaLayer() *Model {
	const hidden, inner = 4096, 11008
	s := &shapes{}
	for _, part := range []string{"q_proj", "k_proj", "v_proj", "o_proj"} {
		s.add("self_attn."+part+".weight", hidden, hidden)
	}
	s.add("mlp.gate_proj.weight", inner, hidden)
	s.add("mlp.up_proj.weight", inner, hidden)
	s.add("mlp.down_proj.weight", hidden, inner)
	s.add("input_layernorm.weight", hidden)
	s.add("post_attention_layernorm.weight", hidden)
	return &Model{Name: "llama-7b-layer", Parameters: s.list}
}
